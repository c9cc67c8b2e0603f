"""Numerics of the Triton kernels, in Triton's interpreter: no GPU is needed."""

from tests.kernels.interpreter import run_interpreted


def test_the_interpreter_computes_with_bfloat16() -> None:
    run_interpreted("harness")


def test_attention() -> None:
    run_interpreted("attention")
