"""The mathematics behind memory in recurrent networks: claims, the numbers that test them, and figures."""
