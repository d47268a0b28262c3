"""The whole error tree.

::

    ProteusError                      the user can act on it; carries a hint and an exit code
    ├── UsageError            exit 2  a quantity, name or option that makes no sense
    │   └── ArtefactError     exit 2  a file that is missing, broken, stale or can't be written
    ├── NoFeasiblePlan        exit 3  the demand can't be met
    │   └── RulesConflict             … or what the rules ask for can't be met together
    ├── DeviceUnavailable     exit 4  a device that isn't here
    │   └── BackendUnavailable        … or whose toolchain isn't installed
    ├── GateFailed            exit 5  a measured value broke a gate that the user set
    ├── EngineError           exit 1  a model that fails to load or to run
    │   ├── OutOfDeviceMemory         … for lack of memory on its device
    │   ├── EngineBroken              … on what it could do when it was loaded
    │   ├── BuildCancelled            … as someone stopped it while its engine was built
    │   └── DeviceLost                … as its device is in a state in which nothing runs there any more
    ├── SolverLost            exit 1  the solver's process died or hangs
    ├── ServerError           exit 1  a server that can't start or can't be reached
    └── RequestError                  one request went wrong; front ends map it to their codes
        ├── BadRequest                malformed, wrong shape or type
        ├── NotAccurateEnough         no variant that is planned is as accurate as it asks for
        ├── UnknownModel              no such family or version
        ├── NotFound                  no such page
        ├── Forbidden                 not for this client, or not on this server
        ├── Conflict                  it can't be done as things stand now
        ├── Unfitting                 well-formed, but not for what is served here
        ├── MethodNotAllowed          the page exists, the verb doesn't fit
        ├── BodyTooLarge              more bytes than the server takes
        ├── Overloaded                more than the plan can carry
        ├── NotReady                  starting or draining
        ├── DeadlineExceeded          its deadline passed in the queue or while running
        ├── EngineFailed              the model failed on it
        └── InternalError             a bug of ours; the client is told no more than that

Anything else that is raised is a bug of ours and keeps its traceback.
"""

from typing import ClassVar


class ProteusError(Exception):
    """Something that the user can act on: what and where in the message, what to do in the hint."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(ProteusError):
    exit_code = 2


class ArtefactError(UsageError):
    pass


class NoFeasiblePlan(ProteusError):
    exit_code = 3


class RulesConflict(NoFeasiblePlan):
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


class UnknownModel(RequestError):
    pass


class NotFound(RequestError):
    pass


class Forbidden(RequestError):
    pass


class Conflict(RequestError):
    pass


class Unfitting(RequestError):
    pass


class MethodNotAllowed(RequestError):
    """``allowed``: the verb that the page takes."""

    def __init__(self, message: str, *, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class BodyTooLarge(RequestError):
    pass


class Overloaded(RequestError):
    """``retry_after_s``: when asking again may help."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(RequestError):
    """``retry_after_s``: when asking again may help."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(RequestError):
    """``is_late``: it ran, but was done too late; else it was given up in the queue."""

    def __init__(self, message: str, *, is_late: bool) -> None:
        super().__init__(message)
        self.is_late = is_late


class EngineFailed(RequestError):
    pass


class InternalError(RequestError):
    def __init__(self) -> None:
        super().__init__("internal error")
