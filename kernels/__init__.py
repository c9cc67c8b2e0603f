"""Fused operations, each beside the plain-PyTorch twin that defines what it must compute."""
