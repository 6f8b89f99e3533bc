"""The HTTP service for the exported model: `python -m serve`. It knows tweets/, never stages/, and no torch."""
