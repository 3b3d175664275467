"""Numbers as tables show them."""


def short(value: float, digits: int) -> str:
    """Rounded, without the zero before the point: these numbers hardly ever reach 1."""
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and text.lstrip("-").startswith("0.") else text
