"""Pictures of matplotlib's as elements of a page."""

import re

from proteus_cli.reporting.style import COLOURS

SVG_INK = "#010203"  # stands for the page's own text colour, which it becomes


def inline(document: str, *, name: str, title: str) -> str:
    """An SVG document as an element that lives among others: its own ids, the page's font and ink, no fixed size."""
    body = document[document.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'\bxlink:href="#', f'href="#{name}-', body).replace("url(#", f"url(#{name}-")
    body = re.sub(r" ?font-family: [^;\"]*;?", "", body).replace(SVG_INK, "currentColor")
    for place, colour in enumerate(COLOURS):
        body = body.replace(colour.lower(), f"var(--run{place}, {colour})")
    view = re.search(r'viewBox="[^"]*"', body)
    opening = f'<svg {view[0] if view else ""} role="img" aria-label="{title}"><title>{title}</title>'
    return re.sub(r"<svg[^>]*>", opening, body, count=1)
