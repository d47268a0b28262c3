"""The key of a cluster: one PEM file with a private key and its certificate, which every machine of the cluster has.

Both ends of a channel present the certificate, and trust no other: who has the file is a member of the cluster.
Channels speak TLS 1.3 (RFC 8446) only. The certificate has no dates to keep, so clocks do not matter.
"""

import ssl
from datetime import UTC, datetime
from pathlib import Path

from proteus_cli.errors import ArtefactError, BackendUnavailable
from proteus_cli.input_files import SETTINGS, read_bytes
from proteus_cli.store import write_new

OTHERS_MAY = 0o077
"""The permissions of group and others, of which a key has none."""

_HINT = "`proteus cluster key` makes one; copy it to each machine of the cluster"
_ALWAYS = datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280, 4.1.2.5


def new_key() -> bytes:
    """A new private key (ECDSA, P-256) and its certificate, as PEM. Raises `BackendUnavailable`."""
    try:
        from cryptography import x509  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            "To make the key of a cluster takes the package cryptography, which is not installed.",
            hint="pip install 'proteus-serving[cluster]', here only: other machines just need the file",
        ) from error
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "proteus cluster")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_ALWAYS[0])
        .not_valid_after(_ALWAYS[1])
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return secret + certificate.public_bytes(serialization.Encoding.PEM)


def write_key(path: Path) -> None:
    """Write a `new_key`, which only its owner may read. Raises `ArtefactError` where there is a file already."""
    content = new_key()
    try:
        write_new(path, content, 0o600)
    except FileExistsError:
        raise ArtefactError(
            f"`{path}` is there already.", hint="a cluster has one key; remove the file first to replace it"
        ) from None
    except OSError as error:
        raise ArtefactError(f"Can't write `{path}`: {error.strerror}.", hint="name another place") from error


def cluster_tls(path: Path, *, listens: bool) -> ssl.SSLContext:
    """The context of one end of a channel: the end that ``listens``, or the one that connects.

    Raises `ArtefactError` where the file is missing, is no key, or may be read by others.
    """
    read_bytes(path, SETTINGS, hint=_HINT)
    if path.stat().st_mode & OTHERS_MAY:
        raise ArtefactError(f"Others than its owner may read `{path}`.", hint=f"chmod 600 {path}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listens else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate names the cluster, not a machine
    context.verify_mode = ssl.CERT_REQUIRED
    if listens:
        context.num_tickets = 0  # channels last; sessions are not resumed
    try:
        context.load_cert_chain(path, password="")  # never ask on the terminal
        context.load_verify_locations(path)
    except (ssl.SSLError, ValueError) as error:
        raise ArtefactError(f"`{path}` is no key of a cluster.", hint=_HINT) from error
    return context
