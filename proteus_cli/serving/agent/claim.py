"""The claim of an agent on its directory, which says to others on the machine which agent it is."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from proteus_cli.errors import ArtefactError

LOCK = "agent.lock"


class AgentRecord(msgspec.Struct, frozen=True):
    """An agent that runs: its process, where it listens, and its version."""

    pid: int
    host: str
    port: int
    version: str


@contextlib.contextmanager
def claimed(state: Path, record: AgentRecord) -> Iterator[None]:
    """Keep other agents out of a directory, made where it is missing. The system releases it where this process dies.

    Raises `ArtefactError` where another agent has it, or it cannot be written to.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        file = (state / LOCK).open("ab")
    except OSError as error:
        raise ArtefactError(
            f"Can't write to `{state}`: {error.strerror}.", hint="name another directory with `--state`"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtefactError(
                f"Another agent keeps its models in `{state}`.", hint="give each a directory of its own with `--state`"
            ) from None
        file.truncate(0)
        file.write(msgspec.json.encode(record))
        file.flush()
        yield


def agent_in(state: Path) -> AgentRecord | None:
    """The agent that has claimed a directory, if one has."""
    try:
        with (state / LOCK).open("rb") as file:
            record = msgspec.json.decode(file.read(), type=AgentRecord)
            with contextlib.suppress(PermissionError):  # a process of another user
                os.kill(record.pid, 0)  # else the lock, which is tried next, could be missed by an agent that starts
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return record
    except (FileNotFoundError, msgspec.MsgspecError, ProcessLookupError):
        pass  # no agent, or one that has not written its record yet
    return None
