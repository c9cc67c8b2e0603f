"""Tests of the Triton kernels in Triton's interpreter, each file run by `tests/kernels/interpreter.py`.

The interpreter must be chosen before a kernel is defined, so these run in processes of their own, and
their names keep pytest from collecting them elsewhere.
"""
