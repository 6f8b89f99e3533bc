"""Rows: where they come from, which of them are copies, which split each is in."""
