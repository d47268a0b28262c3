"""A lock on a file, for one process at a time."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from proteus_cli.errors import ArtefactError, BuildCancelled

RETRY_S = 0.05


@contextmanager
def file_lock(path: Path, keeps_waiting: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Hold the lock of a file, once no other process holds it. The system releases it where a process dies.

    ``keeps_waiting`` is called every `RETRY_S` while another process holds the lock. The file stays, as another process
    may wait for it already. Raises `ArtefactError` where the file cannot be made, `BuildCancelled` where
    ``keeps_waiting`` returns False.
    """
    hint = "choose a workspace that you may write to with `--workspace`"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise ArtefactError(f"Can't make the lock `{path}`: {error.strerror or error}.", hint=hint) from error
    with file:
        while not _try_lock(file):
            if not keeps_waiting():
                raise BuildCancelled(f"Waiting for `{path}` was cancelled.", hint="another process builds an engine")
            time.sleep(RETRY_S)
        yield


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
