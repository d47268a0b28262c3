"""Digests of inputs: what a plan or profile was made from."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from proteus_cli.input_files import ARTEFACT, EVAL_SPLIT, MODEL, WEIGHTS, decode_toml, decoded, read_bytes, sha256_of
from proteus_cli.store.models.external_data import external_files

_HINT = "put it back as it was, or make it anew, and then what was made from it"
_SPLIT_HINT = "put it back, or name another one as `eval` in engines/catalog.toml, and run `proteus profile` again"


def digest(path: Path) -> str:
    """SHA-256 of the bytes of an eval split, in hex. Raises `ArtefactError`."""
    return sha256_of(path, EVAL_SPLIT, hint=_SPLIT_HINT).hex()


def content_digest(path: Path) -> str:
    """SHA-256 of what a TOML or JSON file says, in hex; comments, layout and the order of keys make no difference.

    Raises `ArtefactError` where it can't be read or parsed.
    """
    content = read_bytes(path, ARTEFACT, hint=_HINT)

    def digest_of_content(content: bytes) -> str:
        return digest_of(decode_toml(content, object) if path.suffix == ".toml" else msgspec.json.decode(content))

    return decoded(content, digest_of_content, f"Can't parse `{path}`", hint=_HINT)


def digest_of(value: object) -> str:
    """The `content_digest` of a file that holds this value."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


def model_parts(model: Path) -> list[Path]:
    """An ONNX file and the files that hold its weights. Raises `ArtefactError` where one is missing."""
    content = read_bytes(model, MODEL, hint=f"`{model}` is named in the catalog")
    return [model, *external_files(model, content)]


ModelStamp = tuple[tuple[str, int, int, int], ...]
"""For each file of a model: name, size, and times of the last change of content and of metadata (ns)."""


def model_stamp(parts: Sequence[Path]) -> ModelStamp:
    """The stamp of the `model_parts`, which changes when one of them does; empty where one cannot be read."""
    try:
        found = [(part.name, part.stat()) for part in parts]
    except OSError:
        return ()
    return tuple((name, status.st_size, status.st_mtime_ns, status.st_ctime_ns) for name, status in found)


def model_digest(model: Path) -> str:
    """SHA-256 of the `model_parts`. Raises `ArtefactError` where one is missing."""
    hint = f"`{model}` is named in the catalog"
    hashes = [sha256_of(part, WEIGHTS, hint=hint) for part in model_parts(model)]
    return (hashes[0] if len(hashes) == 1 else hashlib.sha256(b"".join(hashes)).digest()).hex()


def single_file_digest(content: bytes) -> str:
    """The `model_digest` of a file with this content, which holds all of its weights."""
    return hashlib.sha256(content).hexdigest()
