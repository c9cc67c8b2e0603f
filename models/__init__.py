"""The mathematics: paths, networks, samplers, likelihoods and the model families, one idea a file."""
