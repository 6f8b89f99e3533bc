"""How far the labels themselves can be trusted: `python -m tools.noise`."""

import stages  # noqa: F401  chooses OpenBLAS's kernels, before NumPy is imported
