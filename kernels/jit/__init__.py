"""The Triton kernels and what launches them; imported only where Triton runs them or compiles them."""
