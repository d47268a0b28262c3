"""matplotlib's SVG documents as elements of a page: own ids, the page's font and text colour, no fixed size."""

import re
from xml.etree import ElementTree as ET

from proteus_cli.reporting.plot_style import COLOURS

SVG_INK = "#010203"  # drawn instead of the page's own text colour, and replaced by it

_LEFT_OUT = {"metadata", "style"}
_PAGE_COLOURS = {SVG_INK: "currentColor", **{c.lower(): f"var(--run{place}, {c})" for place, c in enumerate(COLOURS)}}
_COLOUR = re.compile("|".join(_PAGE_COLOURS))


def inline(document: bytes, *, name: str, title: str) -> str:
    """The document as an image with a title; its ids start with ``name``."""
    svg = _without_frame(document, name, role="img", **{"aria-label": title})
    heading = ET.Element("title")
    heading.text = title
    svg.insert(0, heading)
    return ET.tostring(svg, encoding="unicode")


def symbols(documents: dict[str, bytes]) -> str:
    """An element that shows nothing: the documents as symbols, for `use`, by their ids."""
    svg = ET.Element("svg", {"class": "keys", "aria-hidden": "true"})
    for name, document in documents.items():
        symbol = _without_frame(document, name, id=name)
        symbol.tag = "symbol"
        svg.append(symbol)
    return ET.tostring(svg, encoding="unicode")


def _without_frame(document: bytes, name: str, **attributes: str) -> ET.Element:
    """The root element, with its view box and these attributes only, and all that is drawn in it."""
    root = ET.fromstring(document)  # noqa: S314 - matplotlib's
    for element in list(root.iter()):
        for child in [each for each in element if _local(each.tag) in _LEFT_OUT]:
            element.remove(child)
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _adapted(_local(key), value, name) for key, value in element.attrib.items()}
        element.text, element.tail = (element.text or "").strip(), None
    root.attrib = {"viewBox": root.attrib["viewBox"], **attributes}
    return root


def _local(name: str) -> str:
    """A name without its namespace: HTML has none."""
    return name.rpartition("}")[2]


def _adapted(key: str, value: str, name: str) -> str:
    """An attribute as it should be in the page, where references and ids start with ``name``."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    if key == "style":
        value = "; ".join(rule for rule in value.split("; ") if not rule.startswith("font-family"))
    coloured = _COLOUR.sub(lambda colour: _PAGE_COLOURS[colour[0]], value)
    return coloured.replace("url(#", f"url(#{name}-")
