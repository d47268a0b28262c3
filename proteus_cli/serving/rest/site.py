"""The files of the page for people, compressed and tagged once, as they never change while a server runs.

Sources: RFC 9110, 13.1.2 (`If-None-Match`) and 8.8.3 (`ETag`); W3C, Content Security Policy Level 3.
"""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

from proteus_cli.serving.http1.compression import preferred_encoding

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
    "cache-control: no-cache\r\nvary: accept-encoding\r\n"
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


class Site:
    """All files of the page, in memory."""

    def __init__(self) -> None:
        self._plain = {name: _file(name, _content(name)) for name in FILES}
        self._compressed = {
            name: _file(name, gzip.compress(file.body, mtime=0), b"gzip") for name, file in self._plain.items()
        }

    def file(self, name: str, headers: Mapping[bytes, bytes]) -> File:
        """A file for a client that sent these headers. Raises `KeyError` where there is none."""
        files = self._compressed if preferred_encoding(headers.get(b"accept-encoding", b"")) == b"gzip" else self._plain
        return files[name]


def _content(name: str) -> bytes:
    folder = files("proteus_cli.serving.rest") / "site_files"
    return (folder / "vendor" / name if name in _VENDORED else folder / name).read_bytes()


def _file(name: str, body: bytes, encoding: bytes = b"") -> File:
    tag = b'"%b"' % sha256(body).hexdigest()[:32].encode()
    packed = b"content-encoding: %b\r\n" % encoding if encoding else b""
    return File(body, FILES[name].encode(), tag, b"%betag: %b\r\n%b" % (packed, tag, _ALWAYS.encode()))
