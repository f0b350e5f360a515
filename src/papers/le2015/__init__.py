"""Le, Jaitly and Hinton (2015): a simple way to initialize recurrent networks of rectified linear units."""
