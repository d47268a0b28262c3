"""Opens and reads the files that a user names: only regular files, and of each kind only up to a stated size.

A path or link may lead to a pipe without a writer, which blocks for ever, or to a device without an end, such as
`/dev/zero`. Neither is opened. Links to regular files are followed.
"""

import gzip
import io
import os
import re
import stat
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import msgspec

from proteus_cli.errors import ArtefactError, unsearchable
from proteus_cli.units import format_size

T = TypeVar("T")

GZIP_MAGIC = b"\x1f\x8b"
MAX_LINE_BYTES = _PIECE_BYTES = 1 << 20
MAX_DOTS = 1000  # on a line of TOML
_NOT_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)
_MIB, _GIB = 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of file: its name in errors, and its largest size in bytes; text is counted unpacked."""

    name: str
    max_bytes: int


SETTINGS = FileKind("a file of settings, tokens or certificates", _MIB)
CATALOG = FileKind("a catalog", 4 * _MIB)
ARTEFACT = FileKind("a plan, profile or record", 64 * _MIB)
ANSWERS = FileKind("a file of answers", 256 * _MIB)
PROFILE_TABLE = FileKind("a profile file", 16 * _MIB)
TRACE = FileKind("a trace", 4 * _GIB)
LABELS = FileKind("a file of labels", _MIB)
EVAL_SPLIT = FileKind("an eval split", _GIB)
MODEL = FileKind("an ONNX file", 2 * _GIB)  # protobuf takes no more
WEIGHTS = FileKind("a file of weights, or a built engine", 64 * _GIB)

_KINDS: Mapping[Callable[[int], bool], str] = {
    stat.S_ISDIR: "a directory",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


# --- paths


@contextmanager
def looking() -> Iterator[None]:
    """Raises `ArtefactError` where a path can't be looked at within it."""
    try:
        yield
    except OSError as error:
        if (problem := unsearchable(error)) is None:
            raise
        raise problem from error


def found_in(directory: Path, *patterns: str) -> list[Path]:
    """The paths in a directory that match the patterns, in order; empty where there is no directory.

    Raises `PermissionError` where it may not be read: `Path.glob` passes over it.
    """
    if not directory.is_dir():
        return []
    next(directory.iterdir(), None)
    return sorted(path for pattern in patterns for path in directory.glob(pattern))


# --- bytes


def open_input(path: Path, kind: FileKind | None, *, hint: str) -> io.BufferedReader:
    """Open the file at ``path``; without a ``kind`` it may have any size.

    Raises `ArtefactError` with ``hint`` where it is missing, too large, no regular file, or may not be read.
    """
    with _reading(str(path), hint):
        _require_regular(path, path.stat(), kind, hint)
        # The path may lead elsewhere by now, so opening it must not block either.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY), "rb")
        try:
            _require_regular(path, os.fstat(file.fileno()), kind, hint)
        except ArtefactError:
            file.close()
            raise
        return file


def read_bytes(path: Path, kind: FileKind, *, hint: str) -> bytes:
    """The content of a file. Raises `ArtefactError` as `open_input` and `read_at_most` do."""
    with open_input(path, kind, hint=hint) as file:
        return read_at_most(file, kind, str(path), hint=hint)


def read_at_most(file: BinaryIO, kind: FileKind, name: str, *, hint: str) -> bytes:
    """The rest of an open file. Raises `ArtefactError` where it is too large, or can't be read."""
    with _reading(name, hint):
        return _read(file, kind, name, hint)


def sha256_of(path: Path, kind: FileKind, *, hint: str) -> bytes:
    """The SHA-256 of a file's content. Raises `ArtefactError` as `read_bytes` does."""
    with open_input(path, kind, hint=hint) as file, _reading(str(path), hint):
        return file_digest(file, "sha256").digest()


def _read(file: BinaryIO, kind: FileKind, name: str, hint: str) -> bytes:
    """The rest of a file, read in pieces: `read(n)` takes the memory of n bytes at once."""
    content = io.BytesIO()
    while piece := file.read(_PIECE_BYTES):
        content.write(piece)
        if content.tell() > kind.max_bytes:
            raise _too_large(name, kind, hint)
    return content.getvalue()


@contextmanager
def _reading(name: str, hint: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ArtefactError(f"No file `{name}`.", hint=hint) from None
    except OSError as error:
        raise ArtefactError(f"Can't read `{name}`: {error.strerror or error}.", hint=hint) from error
    except ValueError as error:  # a path with a null byte, as a catalog may have
        raise ArtefactError(f"Can't read {name!r}: {error}.", hint=hint) from None


def _require_regular(path: Path, status: os.stat_result, kind: FileKind | None, hint: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        found = next((name for is_kind, name in _KINDS.items() if is_kind(status.st_mode)), "no file")
        raise ArtefactError(f"`{path}` is {found}, and must be a regular file.", hint=hint)
    if kind is not None and status.st_size > kind.max_bytes:
        raise _too_large(str(path), kind, hint)


def _too_large(name: str, kind: FileKind, hint: str) -> ArtefactError:
    return ArtefactError(f"`{name}` is too large: {kind.name} has at most {format_size(kind.max_bytes)}.", hint=hint)


def decoded(content: bytes, decode: Callable[[bytes], T], what: str, *, hint: str) -> T:
    """``decode(content)`` for a decoder of JSON or TOML. Raises `ArtefactError` that begins with ``what``."""
    try:
        return decode(content)
    except RecursionError:
        raise ArtefactError(f"{what}: it is nested too deeply.", hint=hint) from None
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:  # the last two of numbers with too many digits
        raise ArtefactError(f"{what}: {error}.", hint=hint) from None


def decode_toml(content: bytes, kind: type[T]) -> T:
    """TOML as a ``kind``, with or without a byte order mark. Raises what `decoded` expects of a decoder.

    The parser takes quadratic time for a key of many parts, which stand on one line with dots between them.
    """
    if any(line.count(b".") > MAX_DOTS for line in content.splitlines()):
        raise ValueError(f"a line has more than {MAX_DOTS:,} dots")
    return msgspec.toml.decode(content.removeprefix(BOM_UTF8), type=kind)


_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_NAMES = ("name", "family", "variant", "device", "id", "key", "batch")
"""Fields that name an entry of a list."""


def converted(tree: Any, kind: type[T]) -> T:
    """A decoded document as a ``kind``. Raises `ValueError` with the place of the error, and the names of the entries.

    ``at `$.family[0].variant[1].accuracy` (name digits, name digits-xl)``.
    """
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        names = _names_on_path(tree, str(error).rpartition("`$")[2])
        raise ValueError(f"{error} ({names})" if names else str(error)) from None


def _names_on_path(tree: Any, path: str) -> str:
    found = []
    for field, place in _STEP.findall(path.split("[...]", maxsplit=1)[0]):
        tree = tree[field] if field else tree[int(place)]
        if place and isinstance(tree, dict):
            found += [f"{name} {tree[name]}" for name in _NAMES if isinstance(tree.get(name), str | int)]
    return ", ".join(found)


# --- text


def read_text(path: Path, kind: FileKind, *, hint: str) -> str:
    """The UTF-8 text of a file, gzipped or not. Raises `ArtefactError` as `read_bytes` and `text_of` do."""
    return text_of(read_bytes(path, kind, hint=hint), kind, str(path), hint=hint)


def text_of(content: bytes, kind: FileKind, name: str, *, hint: str) -> str:
    """``content`` as UTF-8 text, unpacked where it is gzipped. Raises `ArtefactError`; ``name`` says of what."""
    try:
        if content.startswith(GZIP_MAGIC):
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as unpacked:
                content = _read(cast("BinaryIO", unpacked), kind, name, hint)
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ArtefactError(f"`{name}`, line {line}: not UTF-8 text.", hint=hint) from None
    except _NOT_GZIP as error:
        raise _not_gzip(name, error) from None


def number_of_lines(file: io.BufferedReader, name: str, kind: FileKind, most: int, *, hint: str) -> int:
    """The number of lines of an open file, gzipped or not, or a number above ``most`` where there are more.

    Reads no further than that, and begins anew afterwards. Raises `ArtefactError` where all lines are more than
    ``kind`` allows, or can't be read.
    """
    with _reading(name, hint):
        try:
            unpacked, lines, size = _unpacked(file), 0, 0
            while lines <= most and (piece := unpacked.read(_PIECE_BYTES)):
                lines += piece.count(b"\n")
                size += len(piece)
                if size > kind.max_bytes:
                    raise _too_large(name, kind, hint)
        except _NOT_GZIP as error:
            raise _not_gzip(name, error) from None
        file.seek(0)
    return lines


def _unpacked(file: io.BufferedReader) -> io.BufferedReader:
    is_gzip = file.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC)
    return io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=file)), _PIECE_BYTES) if is_gzip else file


class LineReader:
    """The lines of UTF-8 text in an open file, gzipped or not, one at a time; each read of the file is bounded.

    ``number`` is the number of the last line taken, from 1. Iterating raises `ArtefactError` where the content is no
    text, a line is longer than `MAX_LINE_BYTES`, or all lines are more than ``kind`` allows.
    """

    def __init__(self, file: BinaryIO, name: str, kind: FileKind | None = None, *, hint: str) -> None:
        self.name, self.number = name, 0
        self._kind, self._hint = kind, hint
        self._lines = self._read(cast("io.BufferedReader", file))

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def error(self, problem: object) -> ArtefactError:
        """The error for a problem in the last line taken."""
        return ArtefactError(f"`{self.name}`, line {max(self.number, 1)}: {problem}.", hint=self._hint)

    def _read(self, file: io.BufferedReader) -> Iterator[str]:
        encoding, size = "utf-8-sig", 0  # a byte order mark can only be on the first line
        readline = _unpacked(file).readline
        try:
            while line := readline(MAX_LINE_BYTES):
                self.number += 1
                size += len(line)
                if len(line) == MAX_LINE_BYTES:
                    raise self.error("longer than 1 MiB, so no row of a table")
                if self._kind is not None and size > self._kind.max_bytes:
                    raise _too_large(self.name, self._kind, self._hint)
                yield line.decode(encoding)
                encoding = "utf-8"
        except UnicodeDecodeError:
            raise self.error("not UTF-8 text") from None
        except _NOT_GZIP as error:
            raise _not_gzip(self.name, error) from None
        except OSError as error:
            raise ArtefactError(f"Can't read `{self.name}`: {error.strerror or error}.", hint=self._hint) from error


def _not_gzip(name: str, error: Exception) -> ArtefactError:
    return ArtefactError(f"`{name}` is not whole gzip data: {error}.", hint="fetch or make the file anew")
