"""Pictures of matplotlib's as elements of a page."""

import re

from proteus_cli.reporting.plot_style import COLOURS

SVG_INK = "#010203"  # stands for the page's own text colour, which it becomes


def inline(document: str, *, name: str, title: str) -> str:
    """An SVG document as an element that lives among others: its own ids, the page's font and ink, no fixed size."""
    view, body = _freed(document, name)
    return f'<svg {view} role="img" aria-label="{title}"><title>{title}</title>{body}</svg>'


def symbol(document: str, *, name: str) -> str:
    """An SVG document as a symbol of that id, for `use`."""
    view, body = _freed(document, name)
    return f'<symbol id="{name}" {view}>{body}</symbol>'


def _freed(document: str, name: str) -> tuple[str, str]:
    """The view box of a document, and what is in it, with ids that start with ``name``."""
    _, opening, body = re.split(r"(<svg[^>]*>)", document, maxsplit=1)
    view = re.search(r'viewBox="[^"]*"', opening)
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body.replace("</svg>", ""))
    body = re.sub(r'\bxlink:href="#', f'href="#{name}-', body).replace("url(#", f"url(#{name}-")
    body = re.sub(r" ?font-family: [^;\"]*;?", "", body).replace(SVG_INK, "currentColor")
    for place, colour in enumerate(COLOURS):
        body = body.replace(colour.lower(), f"var(--run{place}, {colour})")
    return view[0] if view else "", body.strip()
