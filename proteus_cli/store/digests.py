"""Digests of inputs: what a plan or profile was made from."""

import hashlib
from pathlib import Path

import msgspec

from proteus_cli.errors import ArtefactError
from proteus_cli.store.external_data import external_files
from proteus_cli.store.files import read_bytes

_HINT = "the file is an input of the plan or profile"


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises `ArtefactError`."""
    return hashlib.sha256(read_bytes(path, hint=_HINT)).hexdigest()


def content_digest(path: Path) -> str:
    """SHA-256 of what a TOML or JSON file says, in hex; comments, layout and the order of keys make no difference.

    Raises `ArtefactError` where it can't be read or parsed.
    """
    decode = msgspec.toml.decode if path.suffix == ".toml" else msgspec.json.decode
    try:
        return digest_of(decode(read_bytes(path, hint=_HINT)))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtefactError(f"Can't parse `{path}`: {error}.", hint=_HINT) from None


def digest_of(value: object) -> str:
    """The `content_digest` of a file that holds this value."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


def model_parts(model: Path) -> list[Path]:
    """An ONNX file and the files that hold its weights. Raises `ArtefactError` where one is missing."""
    content = read_bytes(model, hint=f"`{model}` is named in the catalog")
    return [model, *external_files(model, content)]


def model_digest(model: Path) -> str:
    """SHA-256 of the `model_parts`. Raises `ArtefactError` where one is missing."""
    hint = f"`{model}` is named in the catalog"
    hashes = [hashlib.sha256(read_bytes(part, hint=hint)) for part in model_parts(model)]
    return (
        hashes[0].hexdigest()
        if len(hashes) == 1
        else hashlib.sha256(b"".join(part.digest() for part in hashes)).hexdigest()
    )
