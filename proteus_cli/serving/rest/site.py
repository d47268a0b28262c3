"""The files of the web page. They are read and tagged once: they never change while a server runs.

Sources: RFC 9110, 13.1.2 (`If-None-Match`) and 8.8.3 (`ETag`); W3C, Content Security Policy Level 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

INDEX = "index.html"
AT = "/ui/"
SCRIPTS = ("main", "feed", "series", "charts", "plan_diagram", "hosts", "tables", "slots", "format")
FILES = {
    INDEX: "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    **dict.fromkeys((f"{name}.js" for name in SCRIPTS), "text/javascript; charset=utf-8"),
    "uPlot.iife.min.js": "text/javascript; charset=utf-8",
    "uPlot.min.css": "text/css; charset=utf-8",
}
"""Content types by name; all are served below `AT`, the index also at ``/``."""
TARGETS = frozenset({"/", *(AT + name for name in FILES)})

_VENDORED = frozenset({"uPlot.iife.min.js", "uPlot.min.css"})
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_ALWAYS = (
    f"content-security-policy: {_POLICY}\r\nx-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n"
    "cache-control: no-cache\r\n"
)  # no-cache: browsers may keep a file, and ask each time whether it has changed


@dataclass(frozen=True, slots=True)
class File:
    """A file as it is sent; ``tag`` is its ETag, ``headers`` are complete lines."""

    body: bytes
    content_type: bytes
    tag: bytes
    headers: bytes

    def is_known_to(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a client that sent these headers has this content already."""
        tags = [tag.strip().removeprefix(b"W/") for tag in headers.get(b"if-none-match", b"").split(b",")]
        return self.tag in tags or tags == [b"*"]


def read_site() -> dict[str, File]:
    """All files of the page by name."""
    return {name: _read(name) for name in FILES}


def _read(name: str) -> File:
    folder = files("proteus_cli.serving.rest") / "site_files"
    body = (folder / "vendor" / name if name in _VENDORED else folder / name).read_bytes()
    tag = b'"%b"' % sha256(body).hexdigest()[:32].encode()
    return File(body, FILES[name].encode(), tag, b"etag: %b\r\n%b" % (tag, _ALWAYS.encode()))
