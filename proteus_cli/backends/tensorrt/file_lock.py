"""One process at a time."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from proteus_cli.errors import ArtefactError, BuildCancelled

LOOK_EVERY_S = 0.05


@contextmanager
def file_lock(path: Path, waits_on: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Hold the lock of that name, waiting for whoever has it; the system frees it where a process dies.

    ``waits_on`` is asked again and again meanwhile: no signal would end a thread that sleeps in the system. The file
    stays: another process may wait for it already. Raises `ArtefactError` where it can't be made, `BuildCancelled`
    where it isn't waited for any more.
    """
    hint = "choose a workspace that you may write to with `--workspace`"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise ArtefactError(f"Can't make the lock `{path}`: {error.strerror or error}.", hint=hint) from error
    with file:
        while not _is_taken(file):
            if not waits_on():
                raise BuildCancelled(f"Waiting for `{path}` was given up.", hint="another process builds an engine")
            time.sleep(LOOK_EVERY_S)
        yield


def _is_taken(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
