"""All errors of the project.

::

    ProteusError                      the user can act on it; carries a hint and an exit code
    ├── UsageError            exit 2  a quantity, name or option is invalid
    │   └── ArtefactError     exit 2  a file is missing, invalid or stale, or cannot be written
    ├── NoFeasiblePlan        exit 3  the demand cannot be served
    │   ├── RulesConflict     exit 3  the rules cannot be obeyed together
    │   └── NoPlanInTime      exit 3  the solver found no plan by then; there may be one
    ├── DeviceUnavailable     exit 4  a device is not here
    │   └── BackendUnavailable exit 4 the software of a backend is not installed
    ├── GateFailed            exit 5  a gate of the user holds for a measured value
    ├── EngineError           exit 1  a model cannot be loaded, or fails when it runs
    │   ├── OutOfDeviceMemory         … because its device has too little memory
    │   ├── EngineBroken              … on inputs that it served when it was loaded
    │   ├── BuildCancelled            … because the build of its engine was cancelled
    │   └── DeviceLost                … because nothing runs on its device any more
    │       └── HostLost              … as its host, with an agent, can't be reached
    ├── TrainingFailed      exit 1  no models come of a training: it fails, or reaches its limits
    ├── SolverLost            exit 1  the solver's process ended or hangs
    ├── ServerError           exit 1  a server cannot start, or cannot be reached
    └── RequestError                  one request failed; front ends map it to their status codes
        ├── BadRequest                malformed, or with the wrong shape or type
        ├── NotAccurateEnough         no planned variant has the accuracy that the request requires
        ├── BoundsUnmet               nothing that is planned keeps the bounds of the request
        ├── UnknownModel              no such family or version
        ├── NotFound                  no such endpoint
        ├── Forbidden                 not allowed for this client, or on this server
        ├── Conflict                  not possible in the present state
        ├── Unprocessable             well-formed, but does not fit what is served here
        ├── MethodNotAllowed          the endpoint exists, but not for this HTTP method
        ├── UnsupportedMediaType      not the type of content that the endpoint takes
        ├── BodyTooLarge              more bytes than the server accepts
        ├── Overloaded                more requests than the plan can serve
        ├── NotReady                  the server starts or drains
        ├── DeadlineExceeded          the deadline passed in the queue or while the request ran
        ├── EngineFailed              the model failed on the request
        └── InternalError             a bug of the server; its log has the traceback

Any other exception is a bug of the program and keeps its traceback.
"""

from typing import ClassVar


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
    exit_code = 2


class ArtefactError(UsageError):
    pass


class NoFeasiblePlan(ProteusError):
    exit_code = 3


class RulesConflict(NoFeasiblePlan):
    pass


class NoPlanInTime(NoFeasiblePlan):
    pass


class DeviceUnavailable(ProteusError):
    exit_code = 4


class BackendUnavailable(DeviceUnavailable):
    pass


class GateFailed(ProteusError):
    exit_code = 5


class EngineError(ProteusError):
    pass


class OutOfDeviceMemory(EngineError):
    pass


class EngineBroken(EngineError):
    pass


class BuildCancelled(EngineError):
    pass


class DeviceLost(EngineError):
    pass


class HostLost(DeviceLost):
    """``why`` the whole host is lost, without its name; empty where only the device cannot be had."""

    def __init__(self, message: str, *, hint: str = "", why: str = "") -> None:
        super().__init__(message, hint=hint)
        self.why = printable(why)


class TrainingFailed(ProteusError):
    pass


class SolverLost(ProteusError):
    pass


class ServerError(ProteusError):
    pass


class RequestError(ProteusError):
    pass


class BadRequest(RequestError):
    pass


class NotAccurateEnough(RequestError):
    pass


class BoundsUnmet(RequestError):
    pass


class UnknownModel(RequestError):
    pass


class NotFound(RequestError):
    pass


class Forbidden(RequestError):
    pass


class Conflict(RequestError):
    pass


class Unprocessable(RequestError):
    pass


class MethodNotAllowed(RequestError):
    """``allowed``: the HTTP method that the endpoint has."""

    def __init__(self, message: str, *, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class UnsupportedMediaType(RequestError):
    pass


class BodyTooLarge(RequestError):
    pass


class CorruptBody(RequestError):
    """Of another encoding than it says."""


class RetryLater(RequestError):
    """``retry_after_s``: when a retry may succeed."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(RetryLater):
    pass


class NotReady(RetryLater):
    pass


class DeadlineExceeded(RequestError):
    """``is_late``: the request ran but ended too late; else it was dropped from the queue."""

    def __init__(self, message: str, *, is_late: bool) -> None:
        super().__init__(message)
        self.is_late = is_late


class EngineFailed(RequestError):
    """``variant``: the one that failed; empty where that is not known, as devices were lost."""

    def __init__(self, message: str, *, variant: str = "") -> None:
        super().__init__(message)
        self.variant = variant


class InternalError(RequestError):
    def __init__(self) -> None:
        super().__init__("internal error")
