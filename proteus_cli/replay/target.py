"""The target of a replay: a server that speaks the Open Inference Protocol v2 over HTTP."""

import asyncio
import math
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec
import numpy as np

from proteus_cli.domain.request import Outcome
from proteus_cli.errors import ServerError
from proteus_cli.replay.http_client import HttpClient, HttpReply

REPLY_TIMEOUT_S = 30.0  # beyond any deadline; without a reply by then, a request has failed
SAMPLE_ROWS = 64  # different rows of each family …
SAMPLE_BYTES = 64 << 20  # … unless they take more than this
_US_PER_S = 1e6
_OK = 200
_UNAUTHORIZED = 401
_JSON_LENGTH = b"inference-header-content-length"
_OUTCOME = b"proteus-outcome"
_NUMPY = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_OUTCOMES = {outcome.value.encode(): outcome for outcome in Outcome if outcome is not Outcome.SERVED}
_NOT_JSON = (msgspec.DecodeError, ValueError, RecursionError)  # a value error: no UTF-8, or no number
_OF_STATUS = {429: Outcome.REJECTED, 503: Outcome.REJECTED, 504: Outcome.DROPPED}


Answered = TypeVar("Answered")


@dataclass(frozen=True, slots=True)
class Reply:
    """How a request ended for its client. SERVED means answered; the caller knows whether in time.

    ``is_deferred`` and ``is_fallback`` as in `RequestRecord`.
    """

    outcome: Outcome
    accuracy: float | None = None
    variant: str | None = None
    device: str | None = None
    batch: int | None = None
    is_deferred: bool = False
    is_fallback: bool = False


class Target(Protocol):
    """Something that requests can be sent to."""

    async def send(self, family: str, number: int, timeout_s: float, min_accuracy: float) -> Reply:
        """Send one request, to be answered within ``timeout_s`` by a variant of at least ``min_accuracy`` (0: any).

        ``number`` determines its content.
        """
        ...


class _Parameters(msgspec.Struct):
    variant: str | None = None
    accuracy: float | None = None
    device: str | None = None
    batch_size: int | None = None
    stages: int | None = None
    fallback: bool = False


class _Answer(msgspec.Struct):
    parameters: _Parameters = msgspec.field(default_factory=_Parameters)


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]


class _Metadata(msgspec.Struct):
    inputs: list[_Input]


class ChangeReply(msgspec.Struct):
    """A change of plan: unix time, reason, seconds to solve, variants loaded and activated, and what changed.

    Servers of older versions do not say the last two.
    """

    unix_s: float
    reason: str
    solve_s: float
    swaps: int
    activated: int = 0
    what: str = ""


class StatusReply(msgspec.Struct):
    """The part of ``/v2/proteus/status`` that a report needs.

    ``pace`` is the slowdown by device. ``emulated``: its devices are emulated. ``attainment_target`` is by family, and
    ``estimated`` are the families with estimated accuracies; servers of older versions have neither.
    """

    policy: str
    slo_s: dict[str, float]
    best_accuracy: dict[str, float]
    pace: dict[str, float]
    changes: list[ChangeReply]
    emulated: bool = False
    attainment_target: dict[str, float] = msgspec.field(default_factory=dict)
    estimated: list[str] = msgspec.field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Sample:
    """A request body in parts: JSON up to the timeout, JSON after it, binary tensors."""

    before: bytes
    after: bytes
    binary: bytes

    def body(self, timeout_s: float, min_accuracy: float) -> tuple[bytes, int]:
        """The body, and the length of its JSON."""
        minimum = b',"min_accuracy":%r' % min_accuracy if min_accuracy > 0 else b""
        json = b"%b%d%b%b" % (self.before, max(1, round(timeout_s * _US_PER_S)), minimum, self.after)
        return json + self.binary, len(json)


class HttpTarget:
    """A server at ``url``. A request carries one random row, and the time until its deadline as ``timeout``."""

    def __init__(self, url: str, client: HttpClient) -> None:
        self._url, self._client = url.rstrip("/"), client
        self._samples: dict[str, list[_Sample]] = {}
        self._heads: dict[str, bytes] = {}

    async def prepare(self, families: tuple[str, ...]) -> StatusReply:
        """Read the inputs of the families and make sample requests; returns the status. Raises `ServerError`."""
        rng = np.random.default_rng(0)
        for family in families:
            path = f"/v2/models/{family}"
            inputs = (await self._get(path, _Metadata)).inputs
            sizes = [_row_bytes(spec) for spec in inputs]
            row_bytes = sum(sizes)
            if not all(sizes) or not 0 < row_bytes <= SAMPLE_BYTES:
                raise ServerError(
                    f"`{self._url}{path}` has inputs that can't be sent.",
                    hint=f"inputs are numbers, and a row of all takes {SAMPLE_BYTES} bytes at most",
                )
            self._heads[family] = self._client.head("POST", f"{path}/infer")
            rows = min(SAMPLE_ROWS, SAMPLE_BYTES // row_bytes)
            self._samples[family] = [_sample(inputs, rng) for _ in range(rows)]
        status = await self.status()
        for family in families:
            if not 0 < status.slo_s.get(family, 0.0) < math.inf:
                raise ServerError(f"`{self._url}` says no SLO of `{family}`.", hint="is it a Proteus server?")
        return status

    async def status(self) -> StatusReply:
        """The server's status. Raises `ServerError`."""
        return await self._get("/v2/proteus/status", StatusReply)

    async def send(self, family: str, number: int, timeout_s: float, min_accuracy: float) -> Reply:
        samples = self._samples[family]
        body, json_length = samples[number % len(samples)].body(timeout_s, min_accuracy)
        headers = b"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n" % json_length
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                reply = await self._client.post(self._heads[family], headers, body)
        except OSError:  # TimeoutError is one
            return Reply(Outcome.FAILED)
        return self._read(reply)

    def _read(self, reply: HttpReply) -> Reply:
        if reply.status != _OK:
            outcome = _OUTCOMES.get(reply.headers.get(_OUTCOME, b""))
            return Reply(outcome or _OF_STATUS.get(reply.status, Outcome.FAILED))
        try:
            json = reply.body[: int(reply.headers.get(_JSON_LENGTH, len(reply.body)))]
            answer = msgspec.json.decode(json, type=_Answer).parameters
        except _NOT_JSON as error:
            raise ServerError(f"`{self._url}` answered something other than an inference: {error}.") from None
        return Reply(
            Outcome.SERVED,
            answer.accuracy,
            answer.variant,
            answer.device,
            answer.batch_size,
            is_deferred=answer.fallback or (answer.stages or 1) > 1,
            is_fallback=answer.fallback,
        )

    async def _get(self, path: str, kind: type[Answered]) -> Answered:
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                reply = await self._client.get(path)
        except TimeoutError:
            why = f"no answer within {REPLY_TIMEOUT_S:.0f} s"
            raise ServerError(f"Can't reach the server at `{self._url}`: {why}.", hint="is it running?") from None
        except OSError as error:
            raise ServerError(f"Can't reach the server at `{self._url}`: {error}.", hint="is it running?") from error
        if reply.status != _OK:
            raise ServerError(
                f"`{self._url}{path}` answered {reply.status}: {reply.body[:200].decode(errors='replace')}",
                hint="set PROTEUS_TOKEN to a token that the server takes"
                if reply.status == _UNAUTHORIZED
                else "does the server serve the families of the trace?",
            )
        try:
            return msgspec.json.decode(reply.body, type=kind)
        except _NOT_JSON as error:
            raise ServerError(f"`{self._url}{path}` answered something else than it should: {error}.") from None


@asynccontextmanager
async def http_target(
    url: str, token: str | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[HttpTarget]:
    """A target whose connections are closed on the way out. Raises `UsageError` where ``url`` is not a server's URL."""
    async with aclosing(HttpClient(url, token, tls)) as client:
        yield HttpTarget(url, client)


def _row_bytes(spec: _Input) -> int:
    """What a row of an input takes; 0 where it can't be sent."""
    size = math.prod(map(abs, spec.shape[1:]))
    return size * np.dtype(_NUMPY[spec.datatype]).itemsize if spec.datatype in _NUMPY else 0


def _sample(inputs: list[_Input], rng: np.random.Generator) -> _Sample:
    tensors, blobs = [], []
    for spec in inputs:
        shape = [1, *map(abs, spec.shape[1:])]
        dtype = np.dtype(_NUMPY[spec.datatype])
        values = rng.random(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        blobs.append(values.astype(dtype).tobytes())
        size = {"binary_data_size": len(blobs[-1])}
        tensors.append({"name": spec.name, "shape": shape, "datatype": spec.datatype, "parameters": size})
    head = msgspec.json.encode({"inputs": tensors, "parameters": {"binary_data_output": True, "timeout": 0}})
    before, _, after = head.rpartition(b'"timeout":0')
    return _Sample(before + b'"timeout":', after, b"".join(blobs))
