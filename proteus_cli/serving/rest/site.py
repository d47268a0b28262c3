"""The files of the web page, which are read once. Source: W3C, Content Security Policy Level 3."""

from importlib.resources import files

from proteus_cli.serving.rest.routing import RestResponse

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
)


def read_site() -> dict[str, RestResponse]:
    """All files of the page by name."""
    return {name: _read(name) for name in FILES}


def _read(name: str) -> RestResponse:
    folder = files("proteus_cli.serving.rest") / "site_files"
    body = (folder / "vendor" / name if name in _VENDORED else folder / name).read_bytes()
    return RestResponse(200, body, FILES[name].encode(), _ALWAYS.encode())
