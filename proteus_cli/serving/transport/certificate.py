"""The certificate of the server: read at its start and on SIGHUP, with a warning where clients refuse it.

Source: RFC 5280, 4.1.2.5 (the period in which a certificate is valid).
"""

import base64
import logging
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import SETTINGS, read_bytes

ENDS_SOON = timedelta(days=7)

_PEM = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.*?)-----END ", re.DOTALL)
_TIME = rb"(?:\x17\x0d(\d{12})|\x18\x0f(\d{14}))Z"  # UTCTime or GeneralizedTime, in DER
_VALIDITY = re.compile(rb"\x30[\x1e\x20\x22]" + _TIME + _TIME)

log = logging.getLogger("proteus.tls")


class ServerCertificate:
    """A certificate and its key in PEM files, for TLS 1.2 and 1.3. Each handshake uses those that were read last."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises `ArtefactError` if the files are not a certificate and its key."""
        self._certificate, self._key = certificate, key
        self._loaded = self._load()

    def context(self, protocol: str) -> ssl.SSLContext:
        """The context of a port, which offers ``protocol`` by ALPN."""

        def use_loaded(handshake: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
            handshake.context = self._loaded

        context = _context()
        context.set_alpn_protocols([protocol])
        context.sni_callback = use_loaded  # called by handshakes of clients that name no server, too
        return context

    def reload(self) -> None:
        """Read the files again. Raises `ArtefactError`; then handshakes use what was read before."""
        self._loaded = self._load()

    def _load(self) -> ssl.SSLContext:
        """A context with the certificate; logs a warning if it is not valid now, or ends soon."""
        pem, _ = (
            read_bytes(path, SETTINGS, hint="`--tls-cert` and `--tls-key` name PEM files")
            for path in (self._certificate, self._key)
        )
        context = _context()
        try:
            context.load_cert_chain(self._certificate, self._key, password="")  # never ask on the terminal
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error)
            raise ArtefactError(
                f"`{self._certificate}` and `{self._key}` can't be used: {reason.replace('_', ' ').lower()}.",
                hint="the first holds the certificate and its issuers', the second its key without a passphrase",
            ) from error
        warn_of_dates(pem, str(self._certificate), datetime.now(UTC))
        return context


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def warn_of_dates(pem: bytes, name: str, now: datetime) -> None:
    """Log a warning if the first certificate of a PEM file is not valid ``now``, or ends soon."""
    start, end = validity(pem)
    if now < start:
        log.warning("the certificate `%s` is valid from %s on: until then clients refuse it", name, _shown(start))
    elif now > end:
        log.warning("the certificate `%s` expired on %s: clients refuse it", name, _shown(end))
    elif now > end - ENDS_SOON:
        log.warning("the certificate `%s` expires on %s: renew it, and send SIGHUP", name, _shown(end))


def validity(pem: bytes) -> tuple[datetime, datetime]:
    """From when until when the first certificate is valid. ``pem`` must hold a certificate, as `ssl` has checked."""
    certificate = _PEM.search(pem)
    assert certificate is not None  # noqa: S101 - ssl has loaded it
    dates = _VALIDITY.search(base64.b64decode(certificate[1]))
    assert dates is not None  # noqa: S101 - like above
    return _time(dates[1], dates[2]), _time(dates[3], dates[4])


def _time(short: bytes | None, long: bytes | None) -> datetime:
    """The time of either form; a ``short`` one has two digits of the year, from 1950 to 2049."""
    text = (long or b"").decode() if short is None else ("19" if short >= b"50" else "20") + short.decode()
    return datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC)


def _shown(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
