"""What counts as no text."""


def is_blank(text: object) -> bool:
    """Tell whether a cell holds no text, or white space only."""
    return not isinstance(text, str) or not text.strip()
