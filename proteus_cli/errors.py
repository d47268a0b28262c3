"""All errors of the project. Each class says when it is raised; a command that ends with it exits with ``exit_code``.

::

    ProteusError                        exit 1; the user can act on it
    ├── UsageError                      exit 2
    │   └── ArtefactError
    ├── NoFeasiblePlan                  exit 3
    │   ├── RulesConflict
    │   └── NoPlanInTime
    ├── DeviceUnavailable               exit 4
    │   └── BackendUnavailable
    ├── GateFailed                      exit 5
    ├── EngineError
    │   ├── OutOfDeviceMemory
    │   ├── EngineBroken
    │   ├── BuildCancelled
    │   ├── ModelOnItsWay
    │   └── DeviceLost
    │       └── HostLost
    ├── TrainingFailed
    ├── SolverLost
    ├── ServerError
    └── RequestError                    of one request, while serving
        ├── BadRequest, NotAccurateEnough, BoundsUnmet, UnknownModel, NotFound, Forbidden, Conflict, Unprocessable
        ├── MethodNotAllowed, UnsupportedMediaType, BodyTooLarge, CorruptBody
        ├── RetryLater
        │   ├── Overloaded
        │   └── NotReady
        └── DeadlineExceeded, EngineFailed, InternalError

Any other exception is a bug of the program and keeps its traceback.
"""

import errno
from typing import ClassVar

NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_OF_A_PATH = {errno.EACCES, errno.ENAMETOOLONG}


def printable(text: str) -> str:
    """A text of lines in which what is not printable is escaped: it may quote what others wrote, on a terminal."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)


class ProteusError(Exception):
    """An error that the user can act on: the message says what and where, the hint what to do. Both are `printable`."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message, self.hint = printable(message), printable(hint)
        super().__init__(self.message)

    @property
    def sentences(self) -> str:
        """Message and hint as running text."""
        return f"{self.message} {self.hint[:1].upper()}{self.hint[1:]}".strip()


class UsageError(ProteusError):
    """A quantity, a name or an option is invalid."""

    exit_code = 2


class ArtefactError(UsageError):
    """A file is missing, invalid or stale, or cannot be written."""


def unsearchable(error: OSError) -> ArtefactError | None:
    """The error for the user where a path can't be accessed, by its name or its directories; None for other errors.

    Readers and writers of files report other errors themselves.
    """
    if error.errno not in _OF_A_PATH or error.filename is None:
        return None
    return ArtefactError(
        f"Can't look at `{error.filename}`: {error.strerror}.",
        hint="check its name, and whether this user may search its directories",
    )


def without_room(error: OSError) -> ArtefactError | None:
    """The error for the user where there is no room for output that goes to no named file; None for other errors."""
    if error.errno not in NO_ROOM or error.filename is not None:
        return None
    return ArtefactError(
        f"Can't write to stdout, or to a temporary file: {error.strerror}.",
        hint="free some space; `TMPDIR` says where temporary files are",
    )


class NoFeasiblePlan(ProteusError):
    """No plan serves the demand."""

    exit_code = 3


class RulesConflict(NoFeasiblePlan):
    """The rules for plans cannot be obeyed together."""


class NoPlanInTime(NoFeasiblePlan):
    """The solver found no plan within its time; there may be one."""


class DeviceUnavailable(ProteusError):
    """A device is not here, or cannot be opened."""

    exit_code = 4


class BackendUnavailable(DeviceUnavailable):
    """The software of a backend is not installed, or cannot be used."""


class GateFailed(ProteusError):
    """A gate of the user is closed: its condition holds for a measured value, or there is no measurement."""

    exit_code = 5


class EngineError(ProteusError):
    """A model cannot be loaded, or fails when it runs."""


class OutOfDeviceMemory(EngineError):
    """A device has too little memory for an engine or a batch."""


class EngineBroken(EngineError):
    """An engine fails on inputs that it served when it was loaded."""


class BuildCancelled(EngineError):
    """The build of an engine was cancelled."""


class ModelOnItsWay(EngineError):
    """A model has not come to the host of a device in time. It may come later."""


class DeviceLost(EngineError):
    """Nothing runs on a device any more: its process ended or hangs, or its driver gave up."""


class HostLost(DeviceLost):
    """The host of a device, with an agent, cannot be reached.

    ``why`` the whole host is lost, without its name; empty where only the device cannot be had.
    """

    def __init__(self, message: str, *, hint: str = "", why: str = "") -> None:
        super().__init__(message, hint=hint)
        self.why = printable(why)


class TrainingFailed(ProteusError):
    """A training ends without models: it fails, or reaches its limits."""


class SolverLost(ProteusError):
    """The solver's process has ended, or hangs."""


class ServerError(ProteusError):
    """A server cannot start, or cannot be reached."""


class RequestError(ProteusError):
    """One request failed. Front ends map each kind to their status codes (`serving/oip/codes.py`)."""


class BadRequest(RequestError):
    """The request is malformed, or has a wrong shape or type."""


class NotAccurateEnough(RequestError):
    """No planned variant has the accuracy that the request requires."""


class BoundsUnmet(RequestError):
    """Nothing keeps the bounds of the request, its timeout among them."""


class UnknownModel(RequestError):
    """There is no such family or version."""


class NotFound(RequestError):
    """There is no such endpoint."""


class Forbidden(RequestError):
    """This client, or any on this server, is not allowed to do that."""


class Conflict(RequestError):
    """The request is not possible in the present state."""


class Unprocessable(RequestError):
    """The request is well-formed, but does not fit what is served here."""


class MethodNotAllowed(RequestError):
    """The endpoint exists, but not for this HTTP method; ``allowed`` is the one that it has."""

    def __init__(self, message: str, *, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class UnsupportedMediaType(RequestError):
    """The content is of a type that the endpoint does not take."""


class BodyTooLarge(RequestError):
    """The body has more bytes than the server accepts."""


class CorruptBody(RequestError):
    """The body has another encoding than it says."""


class RetryLater(RequestError):
    """The same request may succeed after ``retry_after_s``."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(RetryLater):
    """There are more requests than the plan can serve."""


class NotReady(RetryLater):
    """The server starts or drains, or nothing can serve the family now."""


class DeadlineExceeded(RequestError):
    """The deadline has passed. ``is_late``: the request ran but ended too late; else it was dropped from the queue."""

    def __init__(self, message: str, *, is_late: bool) -> None:
        super().__init__(message)
        self.is_late = is_late


class EngineFailed(RequestError):
    """The model failed on the request. ``variant`` is its name; empty where it is not known, as devices were lost."""

    def __init__(self, message: str, *, variant: str = "") -> None:
        super().__init__(message)
        self.variant = variant


class InternalError(RequestError):
    """A bug of the server; its log has the traceback."""

    def __init__(self) -> None:
        super().__init__("internal error")
