"""Search for better params: `python -m tools.search`."""
