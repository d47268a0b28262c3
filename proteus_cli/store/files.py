"""Artefacts on disk: written whole or not at all, read strictly."""

import contextlib
import errno
import gzip
import os
import platform
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from proteus_cli import __version__
from proteus_cli.domain.base import MadeBy
from proteus_cli.errors import NO_ROOM, ArtefactError
from proteus_cli.input_files import ARTEFACT, converted, decoded, read_bytes

T = TypeVar("T")

_ANYONE = 0o666  # may read and write, less what the umask takes
_GZIP_LEVEL = 6  # 9 makes a trace 0.4 % smaller, in four times the time


def made_by() -> MadeBy:
    """This program, host and moment."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return MadeBy(version=__version__, host=platform.node(), time=now)


# --- writing


def to_json(value: object) -> bytes:
    """Indented JSON that ends in a newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def write_json(path: Path, value: object) -> None:
    """Write an artefact as JSON, as `write_bytes` does. Raises `ArtefactError`."""
    write_bytes(path, to_json(value))


def write_text(path: Path, text: str) -> None:
    """Write text as `writing_text` does. Raises `ArtefactError`."""
    with writing_text(path) as write:
        write(text)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` as `writing` does. Raises `ArtefactError`, e.g. on a full disk."""
    with interrupts_deferred(), writing(path) as file:
        file.write(content)


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file with permissions ``mode`` (less the umask) where there is none, whole or not at all.

    Raises `OSError`, as `FileExistsError` where there is one.
    """
    with interrupts_deferred(), _temporary_beside(path, mode) as (file, temporary):
        file.write(content)
        _sync(file)
        os.link(temporary, path)  # unlike renaming, this replaces nothing
        _sync_directory(path.parent)


@contextlib.contextmanager
def writing_text(path: Path) -> Iterator[Callable[[str], object]]:
    """A function that writes text to ``path`` as `writing` does; gzipped where the name ends in ``.gz``.

    The same text gives the same bytes.
    """
    with writing(path) as file:
        if path.suffix != ".gz":
            yield lambda text: file.write(text.encode())
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=_GZIP_LEVEL) as packed:
            yield lambda text: packed.write(text.encode())


@contextlib.contextmanager
def writing(path: Path, mode: int = _ANYONE) -> Iterator[IO[bytes]]:
    """A file whose content replaces ``path`` at the end, whole or not at all; nothing where the block raises.

    A file that is replaced keeps its permissions; a new one has ``mode``, less the umask. A link is followed. A device
    or a pipe, like `/dev/stdout`, is written to directly. Raises `ArtefactError`.
    """
    with _as_artefact_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as device:
                yield device
            return
        place = _followed(path)
        with _temporary_beside(place, mode) as (file, temporary):
            yield file
            _sync(file)
            _rename(temporary, place)


def write_in_order(contents: Mapping[Path, bytes]) -> None:
    """Write several files, each whole, and none of them before the contents of all are on the disk.

    A full disk therefore leaves all files as they were. A crash while the files are renamed may leave the first ones
    new and the others old, so a file that refers to others comes after them. Raises `ArtefactError` as `write_bytes`
    does.
    """
    with interrupts_deferred(), contextlib.ExitStack() as stack:
        written: list[tuple[Path, Path]] = []
        for path, content in contents.items():
            with _as_artefact_error(path):
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                path.parent.mkdir(parents=True, exist_ok=True)
                place = _followed(path)
                file, temporary = stack.enter_context(_temporary_beside(place))
                file.write(content)
                _sync(file)
                written.append((place, temporary))
        for place, temporary in written:
            with _as_artefact_error(place):
                _rename(temporary, place)


def rename_in_order(files: Mapping[Path, Path]) -> None:
    """Rename files (their new places by their old ones) on one file system, each name on the disk before the next.

    A file that refers to others comes after them: an error or a crash leaves the earlier ones renamed. A file that is
    replaced passes on its permissions. Raises `ArtefactError`.
    """
    with interrupts_deferred():
        for old, new in files.items():
            with _as_artefact_error(new):
                new.parent.mkdir(parents=True, exist_ok=True)
                place = _followed(new)
                if (kept := _permissions(place)) is not None:
                    old.chmod(kept)
                _rename(old, place)


def remove(path: Path) -> None:
    """Remove a file, where there is one. Raises `ArtefactError`."""
    with _as_artefact_error(path), contextlib.suppress(FileNotFoundError):
        path.unlink()
        _sync_directory(path.parent)


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Hold Ctrl-C back until the end.

    Python raises `KeyboardInterrupt` between any two steps of a program. Between the making of a temporary file and the
    block that removes it, the file would stay; in a finaliser, the interrupt itself would be lost.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # no interrupt comes here: the thread gets none, or the program handles the signal in a way of its own
        return
    received: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if received:
            signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def _as_artefact_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "choose another place with `-o` or `--workspace`"
        raise ArtefactError(
            f"Can't write `{path}`: {error.strerror or error}.",
            hint=f"free some space, or {hint}" if error.errno in NO_ROOM else hint,
        ) from error


def _followed(path: Path) -> Path:
    """Where a path leads that may be a link. Raises `OSError` where links lead round in circles."""
    place = Path(os.path.realpath(path))
    if place.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return place


def _permissions(path: Path) -> int | None:
    """Those of the file that is to be replaced; None where there is none."""
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else None


@contextlib.contextmanager
def _temporary_beside(path: Path, mode: int = _ANYONE) -> Iterator[tuple[IO[bytes], Path]]:
    """An open file beside ``path``, and its name; removed at the end unless it was renamed.

    It has the permissions of the file at ``path``; where there is none, ``mode``, less the umask.
    """
    kept = _permissions(path)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode if kept is None else kept)
    try:
        file = os.fdopen(handle, "wb")
        try:
            if kept is not None:
                os.fchmod(handle, kept)
            yield file, temporary
            file.close()
        finally:
            with contextlib.suppress(OSError):  # what could not be written has raised before
                file.close()
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _rename(old: Path, new: Path) -> None:
    """Rename a file, and bring the new name to the disk."""
    old.replace(new)
    _sync_directory(new.parent)


def _sync_directory(path: Path) -> None:
    """Bring the names in a directory to the disk."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _sync(file: IO[bytes]) -> None:
    """Bring all that was written to the disk."""
    file.flush()
    os.fsync(file.fileno())


# --- reading


def read_json(path: Path, kind: type[T], *, hint: str) -> T:
    """Read an artefact strictly. Raises `ArtefactError` naming the file and the field."""
    what = f"`{path}` is not a valid {kind.__name__.lower()}"
    content = read_bytes(path, ARTEFACT, hint=hint)
    return decoded(content, lambda content: _from_json(content, kind), what, hint=hint)


def _from_json(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError:
        return converted(msgspec.json.decode(content), kind)  # the same error, with the names of the entries
