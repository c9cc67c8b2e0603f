"""Numerics of the Triton kernels, in Triton's interpreter: no GPU is needed."""

from tests.kernels.interpreter import run_interpreted


def test_the_interpreter_computes_with_bfloat16() -> None:
    run_interpreted("harness")


def test_attention() -> None:
    run_interpreted("attention")


def test_prepare_and_joint_attention() -> None:
    run_interpreted("prepare")


def test_adaln() -> None:
    run_interpreted("adaln")


def test_rms_norm() -> None:
    run_interpreted("rms_norm")


def test_networks() -> None:
    run_interpreted("networks")
