"""Models: the transformer and how it is trained, its export, the baseline."""
