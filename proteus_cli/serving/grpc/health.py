"""gRPC's health service: whether the server, or a family, serves: now (`Check`), and at each change (`Watch`)."""

import asyncio
from collections.abc import Callable

from proteus_cli.buffers import Buffer
from proteus_cli.serving.grpc.calls import CallHeaders, UnaryCall
from proteus_cli.serving.grpc.messages import HealthCheckRequest, HealthCheckResponse, parsed
from proteus_cli.serving.grpc.status import CallError
from proteus_cli.serving.http2.stream import Http2Stream
from proteus_cli.serving.oip.codes import GrpcStatus

_CHECK_EVERY_S = 0.25
_MAX_WATCHES = 4096  # to tell them all of a change takes 20 ms


def serving_status(*, is_serving: bool | None) -> str:
    """The name of a status of the health protocol; None: the service is not known."""
    return "SERVICE_UNKNOWN" if is_serving is None else "SERVING" if is_serving else "NOT_SERVING"


class Watches:
    """The `Watch` calls of all clients. Looks for changes a few times a second, once for each service."""

    def __init__(self, is_serving: Callable[[str], bool | None]) -> None:
        self._is_serving = is_serving
        self._calls: dict[str, set[WatchCall]] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def status(self, service: str) -> str:
        return serving_status(is_serving=self._is_serving(service))

    def add(self, service: str, call: "WatchCall") -> None:
        """Tell a call of each change. Raises `CallError` if there are too many."""
        if self._count >= _MAX_WATCHES:
            raise CallError(GrpcStatus.RESOURCE_EXHAUSTED, "too many clients watch; use Check")
        if self._timer is None:
            self._check_later()
        self._calls.setdefault(service, set()).add(call)
        self._count += 1

    def remove(self, service: str, call: "WatchCall") -> None:
        calls = self._calls.get(service, set())
        if call in calls:
            calls.remove(call)
            self._count -= 1
            if not calls:
                del self._calls[service]

    def _check(self) -> None:
        self._timer = None
        if self._count:
            self._check_later()  # first, so that a bug ends no later look
        for service, calls in tuple(self._calls.items()):
            status = self.status(service)
            for call in tuple(calls):
                call.tell(status)

    def _check_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_CHECK_EVERY_S, self._check)


class WatchCall(UnaryCall):
    """`Watch`: sends the status of a service now, and whenever it changes."""

    __slots__ = ("_service", "_told", "_watches")

    def __init__(self, watches: Watches, request: CallHeaders, stream: Http2Stream) -> None:
        super().__init__(request, stream)
        self._watches = watches
        self._service = self._told = ""  # the status that was sent last

    def handle(self, message: Buffer) -> None:
        self._service = parsed(HealthCheckRequest, message).service
        self._watches.add(self._service, self)
        self.tell(self._watches.status(self._service))

    def tell(self, status: str) -> None:
        """Send the status, if it is news, and the client has taken what was sent before."""
        if status != self._told and not self.stream.unsent_bytes:
            self._told = status
            self.send(HealthCheckResponse(status=status).SerializeToString())

    def drain(self) -> None:
        if self._told:
            self.tell(self._watches.status(self._service))
        self.fail(CallError(GrpcStatus.UNAVAILABLE, "the server stops"))

    def abandoned(self) -> None:
        self._watches.remove(self._service, self)
