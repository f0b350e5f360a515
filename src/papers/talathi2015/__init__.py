"""Talathi and Vartak (2015): improving performance of recurrent neural network with ReLU nonlinearity."""
