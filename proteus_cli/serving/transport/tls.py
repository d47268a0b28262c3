"""The TLS context of a server's port, whose certificate is read again while it serves."""

import ssl
from pathlib import Path

from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import SETTINGS, read_bytes

_NO_PASSPHRASE = ""  # never ask on the terminal


class ServerCertificate:
    """A certificate and its key in PEM files, for TLS 1.2 and 1.3. Each handshake uses the last files read."""

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
        context.sni_callback = use_loaded  # also called for clients that name no server
        return context

    def reload(self) -> None:
        """Read the files again. Raises `ArtefactError`; handshakes then go on with the certificate read before."""
        self._loaded = self._load()

    def _load(self) -> ssl.SSLContext:
        for path in (self._certificate, self._key):
            read_bytes(path, SETTINGS, hint="`--tls-cert` and `--tls-key` name PEM files")
        context = _context()
        try:
            context.load_cert_chain(self._certificate, self._key, password=_NO_PASSPHRASE)
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error)
            raise ArtefactError(
                f"`{self._certificate}` and `{self._key}` can't be used: {reason.replace('_', ' ').lower()}.",
                hint="the first holds the certificate and its issuers', the second its key without a passphrase",
            ) from error
        return context


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
