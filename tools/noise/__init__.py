"""How far the labels themselves can be trusted: `python -m tools.noise`."""
