"""The templates of pages."""

import re
from html import escape
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_WHOLE = re.compile(r"(?<![\w-])(?:--[a-z][a-z-]*|\w+(?:-\w+)+)")
_UNIT = re.compile(r"(?<=\d) (?=%|[mµ]?s\b|qps\b)")


def page_templates() -> Environment:
    """The templates of ``templates/``, with the filters of this module; filters and globals may be added."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"unbroken": unbroken, "in_two_lines": in_two_lines}
    return templates


def unbroken(text: str) -> str:
    """A text as HTML in which no line ends within an option or a name, or between a number and its unit."""
    joined = _UNIT.sub("\N{NO-BREAK SPACE}", escape(text))
    return _WHOLE.sub(r'<span class="whole">\g<0></span>', joined)


def in_two_lines(text: str) -> str:
    """The head of a column as HTML, which breaks once on phones: where the longer of both lines is shortest."""
    words = text.split(" ")
    cuts = ((" ".join(words[:place]), " ".join(words[place:])) for place in range(len(words) - 1, 0, -1))
    lines = min(cuts, key=lambda lines: max(map(len, lines)), default=(text,))
    return " ".join(f'<span class="line">{escape(line)}</span>' for line in lines)
