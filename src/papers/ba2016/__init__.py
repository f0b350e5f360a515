"""Ba, Hinton, Mnih, Leibo & Ionescu (2016), "Using Fast Weights to Attend to the Recent Past", arXiv 1610.06258."""
