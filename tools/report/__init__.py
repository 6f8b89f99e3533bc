"""One page of results, beside those of another revision: `python -m tools.report`."""
