"""Which cores the servers and agents of this user serve from, so that two on the same cores are not left unsaid.

Each of them holds a lock on a file of its own in the runtime directory, whose text names its process and its cores. The
lock ends with the process, however it ends; a file without one is left over and is removed. Child processes do not
inherit the lock.
"""

import contextlib
import fcntl
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from proteus_cli.serving.logs import fields

log = logging.getLogger("proteus.server")

_SUFFIX = ".cores"
_MAX_BYTES = 64 * 1024


Program = Literal["server", "agent"]


class CoreClaim(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A server or an agent by its process id, and the cores that it serves from.

    The file of a server does not name the program, so that servers of older versions can read it.
    """

    pid: int
    cores: tuple[int, ...]
    program: Program = "server"


def runtime_dir() -> Path:
    """``$XDG_RUNTIME_DIR/proteus``, else a directory of this user among the temporary files."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    return Path(given) / "proteus" if given else Path(tempfile.gettempdir()) / f"proteus-{os.getuid()}"


@contextmanager
def claiming(cores: Iterable[int], directory: Path, program: Program = "server") -> Iterator[tuple[CoreClaim, ...]]:
    """Claim cores for this process until the block ends; yields what running servers have claimed of them.

    Where the directory cannot be written or belongs to another user, nothing is claimed and nobody found.
    """
    claim = CoreClaim(os.getpid(), tuple(sorted(set(cores))), program)
    with contextlib.ExitStack() as stack:
        others: tuple[CoreClaim, ...] = ()
        if claim.cores:
            with contextlib.suppress(OSError):
                _open_private(directory)
                others = tuple(_overlaps(claim, directory))
                stack.enter_context(_held(claim, directory))
        yield others


@contextmanager
def warning_of_shared(cores: Iterable[int], program: Program = "server") -> Iterator[None]:
    """Claim cores in the `runtime_dir` until the block ends, and log a warning of each other program on them."""
    with claiming(cores, runtime_dir(), program) as others:
        for other in others:
            log.warning(
                "%s (pid %d) serves from the same cores (%s): both are slower than planned",
                "a Proteus agent" if other.program == "agent" else "another Proteus server",
                other.pid,
                ", ".join(map(str, other.cores)),
                extra=fields(other_pid=other.pid, cores=list(other.cores)),
            )
        yield


def _open_private(directory: Path) -> None:
    """Make the directory; raises `OSError` where it is not this user's alone."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"{directory} may be written by others")


def _overlaps(claim: CoreClaim, directory: Path) -> Iterator[CoreClaim]:
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        other = _running(path)
        if other is not None and other.pid != claim.pid and (shared := set(other.cores) & set(claim.cores)):
            yield CoreClaim(other.pid, tuple(sorted(shared)), other.program)


def _running(path: Path) -> CoreClaim | None:
    """The claim in a file whose server runs; a file that nobody holds is removed."""
    with contextlib.suppress(OSError, msgspec.MsgspecError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=CoreClaim)
        path.unlink()
    return None


@contextmanager
def _held(claim: CoreClaim, directory: Path) -> Iterator[None]:
    """Raises `OSError` where the file cannot be made. It gets its name only once it is locked and written."""
    handle, name = tempfile.mkstemp(dir=directory)  # not inherited by child processes
    path, temporary = directory / f"{claim.pid}{_SUFFIX}", Path(name)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.write(handle, msgspec.json.encode(claim))
        temporary.replace(path)
    except BaseException:
        os.close(handle)
        temporary.unlink(missing_ok=True)
        raise
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
