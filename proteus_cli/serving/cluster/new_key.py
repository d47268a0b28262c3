"""Makes the key of a cluster, which `serving/transport/tls.py` uses."""

from datetime import UTC, datetime
from pathlib import Path

from proteus_cli.errors import ArtefactError, BackendUnavailable
from proteus_cli.store import write_new

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
            hint="pip install cryptography, here only: other machines just need the file",
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
