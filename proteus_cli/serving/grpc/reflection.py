"""Server reflection: the list of services, and the files that describe them."""

from typing import Any

from proteus_cli.buffers import Buffer
from proteus_cli.serving.grpc.calls import GrpcCall
from proteus_cli.serving.grpc.messages import FILES, ReflectionRequest, ReflectionResponse, file_of, parsed, services
from proteus_cli.serving.oip.codes import GrpcStatus

_FILES = {file.name: file.SerializeToString() for file in FILES}


class ReflectionCall(GrpcCall):
    """`ServerReflectionInfo`: a stream of requests, each answered once its client has taken the answers before."""

    __slots__ = ()

    @property
    def has_room(self) -> bool:
        return not self.stream.unsent_bytes

    def message(self, message: Buffer) -> None:
        self.stream.connection.turn.end()
        request = parsed(ReflectionRequest, message)
        answer = ReflectionResponse(valid_host=request.host, original_request=request)
        _answer(request, answer)
        self.send(answer.SerializeToString())
        self.stream.throttle(is_throttled=not self.has_room)

    def sent(self) -> None:
        if self._is_stopped:
            self.stream.connection.later(self.go_on)
        self.stream.throttle(is_throttled=False)

    def ended(self) -> None:
        self.finish()


def _answer(request: Any, answer: Any) -> None:
    kind = request.WhichOneof("message_request")
    try:
        match kind:
            case "list_services":
                for name in services():
                    answer.list_services_response.service.add(name=name)
            case "file_by_filename":
                answer.file_descriptor_response.file_descriptor_proto.append(_FILES[request.file_by_filename])
            case "file_containing_symbol":
                name = file_of(request.file_containing_symbol)
                answer.file_descriptor_response.file_descriptor_proto.append(_FILES[name])
            case _:  # the protocol has no extensions
                answer.error_response.error_code = GrpcStatus.UNIMPLEMENTED
                answer.error_response.error_message = "no extensions here"
    except KeyError:
        answer.error_response.error_code = GrpcStatus.NOT_FOUND
        answer.error_response.error_message = "not found"
