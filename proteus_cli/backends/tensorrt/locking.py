"""One process at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proteus_cli.errors import ArtefactError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of that name, waiting for whoever has it; the system frees it where a process dies.

    The file stays: another process may wait for it already. Raises `ArtefactError` where it can't be made.
    """
    hint = "choose a workspace that you may write to with `--workspace`"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise ArtefactError(f"Can't make the lock `{path}`: {error.strerror or error}.", hint=hint) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
