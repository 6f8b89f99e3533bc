"""Tests. The folders mirror those of the code."""

import stages  # noqa: F401  chooses OpenBLAS's kernels as in the commands, before any test imports NumPy
