"""Tests in the interpreter are for processes of their own: see `tests/kernels/interpreter.py`."""

from kernels.launch import INTERPRETED

collect_ignore = [] if INTERPRETED else ["interpreted"]
