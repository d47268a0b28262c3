"""When a certificate is valid. `ssl` tells that only of the certificate of a peer, so its DER is read here.

Source: RFC 5280, 4.1 (the fields of a certificate, in their order) and 4.1.2.5 (times).
"""

import base64
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

ENDS_SOON = timedelta(days=7)  # a week to renew it in: the server reads its certificate when it starts

_PEM = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.*?)-----END ", re.DOTALL)
_VERSION, _UTC_TIME = 0xA0, 0x17
_LONG_LENGTH = 0x80

log = logging.getLogger("proteus.tls")


def warn_of_dates(pem: bytes, name: str, now: datetime) -> None:
    """Log a warning if the first certificate of a PEM file is not valid ``now``, or ends soon."""
    start, end = validity(pem)
    if now < start:
        log.warning("the certificate `%s` is valid from %s on: until then clients refuse it", name, _shown(start))
    elif now > end:
        log.warning("the certificate `%s` expired on %s: clients refuse it", name, _shown(end))
    elif now > end - ENDS_SOON:
        log.warning("the certificate `%s` expires on %s: renew it, and start the server anew", name, _shown(end))


def validity(pem: bytes) -> tuple[datetime, datetime]:
    """From when until when the first certificate is valid. ``pem`` must hold a certificate, as `ssl` has checked."""
    match = _PEM.search(pem)
    assert match is not None  # noqa: S101 - ssl has loaded it
    (_, certificate), *_ = _items(base64.b64decode(match[1]))
    (_, signed), *_ = _items(certificate)
    _, _, _, dates, *_ = (content for tag, content in _items(signed) if tag != _VERSION)
    start, end = (_time(tag, content.decode("ascii")) for tag, content in _items(dates))
    return start, end


def _items(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The tags and contents of what stands one after another."""
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length >= _LONG_LENGTH:
            first, at = at, at + length - _LONG_LENGTH
            length = int.from_bytes(der[first:at])
        yield tag, der[at : at + length]
        at += length


def _time(tag: int, text: str) -> datetime:
    century = ("19" if text >= "50" else "20") if tag == _UTC_TIME else ""
    return datetime.strptime(century + text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _shown(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
