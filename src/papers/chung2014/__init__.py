"""Chung, Gulcehre, Cho and Bengio (2014), Empirical Evaluation of Gated Recurrent Neural Networks."""
