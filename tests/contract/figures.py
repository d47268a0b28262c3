"""What the contract tests checked, in figures; `conftest.py` prints them at the end of a run."""

_figures: dict[str, str] = {}


def tell(about: str, figures: str) -> None:
    """Keep a line for the end of the run; what is told again about the same replaces it."""
    _figures[about] = figures


def lines() -> list[str]:
    """All that was told, one line each."""
    width = max(map(len, _figures), default=0)
    return [f"{about:{width}}  {figures}" for about, figures in _figures.items()]
