"""Estimators of the likelihood of models on a Gaussian path, one a file."""
