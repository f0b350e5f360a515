"""Karpathy, Johnson and Fei-Fei (2015), Visualizing and Understanding Recurrent Networks."""
