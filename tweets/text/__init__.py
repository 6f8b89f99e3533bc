"""Texts: cleaning, words and tokens."""
