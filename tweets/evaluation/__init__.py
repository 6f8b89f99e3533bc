"""How good a model is: scores, behaviour, what changes its answers, drift."""
