"""A client of one family of two numbers a row, by each protocol, and a plane with one device behind it."""

import asyncio
import gzip
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from grpc_client import INFER, STREAM
from grpc_client import Client as GrpcClient
from one_device import FLOAT, World, run
from tritonclient.grpc import service_pb2

from proteus_cli.buffers import Buffer
from proteus_cli.serving.grpc.framing import framed
from proteus_cli.serving.grpc.service import GrpcHandler
from proteus_cli.serving.http1.exchange import Exchange, Head
from proteus_cli.serving.http2.frames import ErrorCode, rst_stream
from proteus_cli.serving.oip.codes import GrpcStatus
from proteus_cli.serving.rest.access import Access, KnownHosts
from proteus_cli.serving.rest.handler import RestHandler
from proteus_cli.serving.telemetry.tracing import Tracing
from proteus_cli.serving.transport.connections import Connections, Turn

PACKED, TYPED = "packed", "typed"
"""Forms of a message: compressed, and with numbers where binary tensors would do."""


class Client(ABC):
    """Clients of one ``connections`` share the turns of long requests."""

    span: str

    def __init__(self, world: World, tracing: Tracing | None = None, connections: Connections | None = None) -> None:
        self.plane, self.tracing = world.plane, tracing
        new = Connections(max_connections=10, max_body_bytes=2**24)
        self.connections = new if connections is None else connections

    @abstractmethod
    def ask(self, *values: float, form: str = "", timeout_us: int = 0, **headers: str) -> None:
        """Send a request, whose rows have two values each."""

    @abstractmethod
    def answer(self) -> str | None:
        """``ok``, or the message of an error; None: there is no answer yet."""

    @abstractmethod
    def leave(self) -> None:
        """Go without waiting for the answer."""


class RestClient(Client):
    span = "POST /v2/models/{model}/infer"

    def ask(self, *values: float, form: str = "", timeout_us: int = 0, **headers: str) -> None:
        self.handler = RestHandler(
            self.plane.admission, self.plane.families, cast("Any", None), access=Access(None, KnownHosts(frozenset())),
            max_body_bytes=2**20, tracing=self.tracing,
        )  # fmt: skip
        x = {"name": "x", "shape": [len(values) // 2, 2], "datatype": "FP32", "data": values}
        body = json.dumps({"inputs": [x], "id": "a", "parameters": {"timeout": timeout_us}}).encode()
        sent = {name.encode(): value.encode() for name, value in headers.items()}
        if form == PACKED:
            body, sent[b"content-encoding"] = gzip.compress(body), b"gzip"
        connection: Any = SimpleNamespace(
            connections=self.connections, turn=Turn(), send=self._answered, reads_long=asyncio.Lock()
        )
        asked = b"POST", b"/v2/models/f/infer", sent
        self.exchange = Exchange(connection, Head(*asked, self.handler.route(*asked)), body, keep_alive=True)
        self.exchange.head.answer(self.exchange)

    def _answered(self, exchange: Exchange, response: Sequence[Buffer]) -> None:
        self.connections.free(exchange.reserved_bytes)
        self.response = response

    def answer(self) -> str | None:
        if not self.exchange.is_answered:
            return None
        head, _, body = b"".join(map(bytes, self.response)).partition(b"\r\n\r\n")
        is_ok = head.startswith(b"HTTP/1.1 200 ")
        document = json.loads(body)
        assert is_ok == ("outputs" in document) == (document.get("id") == "a")
        return "ok" if is_ok else str(document["error"])

    def leave(self) -> None:
        self.handler.abandoned(self.exchange)
        self.connections.free(self.exchange.reserved_bytes)


class CallClient(Client):
    span = "inference.GRPCInferenceService/ModelInfer"
    path = INFER

    def ask(self, *values: float, form: str = "", timeout_us: int = 0, **headers: str) -> None:
        handler = GrpcHandler(
            self.plane.admission, self.plane.families, models=cast("Any", None), max_message_bytes=2**20,
            tracing=self.tracing,
        )  # fmt: skip
        self.client = GrpcClient(handler=handler, connections=self.connections)
        request = service_pb2.ModelInferRequest(model_name="f", id="a")
        tensor = request.inputs.add(name="x", datatype="FP32", shape=[len(values) // 2, 2])
        if form == TYPED:
            tensor.contents.fp32_contents.extend(values)
        else:
            request.raw_input_contents.append(np.array(values, FLOAT).tobytes())
        if timeout_us:
            request.parameters["timeout"].int64_param = timeout_us
        message = request.SerializeToString()
        if form == PACKED:
            packed, headers["grpc_encoding"] = gzip.compress(message), "gzip"
            frame = b"\1" + len(packed).to_bytes(4, "big") + packed
        else:
            frame = framed(message)
        self.stream = self.client.call(self.path, frame, ended=True, **headers)

    def answer(self) -> str | None:
        if not self.client.peer.is_answered(self.stream):
            return None
        if self.client.status(self.stream) is GrpcStatus.OK:
            (message,) = self.client.messages(self.stream)
            return self.read(message)
        return self.client.fields(self.stream)["grpc-message"].replace("%20", " ")

    def read(self, message: bytes) -> str:
        assert service_pb2.ModelInferResponse.FromString(message).id == "a"
        return "ok"

    def leave(self) -> None:
        self.client.peer.feed(rst_stream(self.stream, ErrorCode.CANCEL))


class StreamClient(CallClient):
    span = "inference.GRPCInferenceService/ModelStreamInfer"
    path = STREAM

    def read(self, message: bytes) -> str:
        response = service_pb2.ModelStreamInferResponse.FromString(message)
        assert response.error_message or response.infer_response.id == "a"
        return response.error_message or "ok"


PROTOCOLS: Sequence[type[Client]] = (RestClient, CallClient, StreamClient)
by_each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
Protocol = type[Client]


def scene(play: Callable[[World], Awaitable[None]], **options: Any) -> None:
    run(play, **options)


async def served(world: World, result: Any = None) -> None:
    """Until the batch that was launched is done."""
    await asyncio.sleep(0.02)
    world.executor.release(result)
    await asyncio.sleep(0.01)
