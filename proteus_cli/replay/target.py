"""The target of a replay: a Proteus server, or any other that speaks the Open Inference Protocol v2 over HTTP."""

import asyncio
import math
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, TypeVar

import msgspec
import numpy as np

from proteus_cli.domain.catalog import Catalog, name_in_catalog
from proteus_cli.domain.catalog_changes import CatalogContent, Digests
from proteus_cli.domain.request import Bounds, Outcome
from proteus_cli.errors import ArtefactError, ServerError
from proteus_cli.replay.http_client import HttpClient, HttpReply, why_unreachable
from proteus_cli.replay.inputs import NUMPY, InputMetadata, Sample, eval_samples, random_samples
from proteus_cli.urls import path_of

REPLY_TIMEOUT_S = 30.0  # after the deadline; without a reply by then, a request has failed
OK = 200
_US_PER_S = 1e6
_UNAUTHORIZED = 401
_JSON_LENGTH = b"inference-header-content-length"
_OUTCOME = b"proteus-outcome"
_OUTCOMES = {outcome.value.encode(): outcome for outcome in Outcome if outcome is not Outcome.SERVED}
_OF_THIS_VERSION = "is it a Proteus server of this version?"
_NOT_JSON = (msgspec.DecodeError, ValueError, RecursionError)  # a value error: no UTF-8, or no number
_OF_STATUS = {429: Outcome.REJECTED, 503: Outcome.REJECTED, 504: Outcome.DROPPED}

AnsweredT = TypeVar("AnsweredT")


class Reply(msgspec.Struct, frozen=True):
    """The end of a request for its client. SERVED means answered; the caller knows whether in time.

    The other fields are as in `RequestRecord`.
    """

    outcome: Outcome
    accuracy: float | None = None
    variant: str | None = None
    device: str | None = None
    batch: int | None = None
    is_deferred: bool = False
    is_fallback: bool = False
    is_correct: bool | None = None
    is_cut: bool = False


class Target(Protocol):
    """A destination of requests."""

    async def send(
        self, family: str, number: int, timeout_s: float, min_accuracy: float, bounds: Bounds | None = None
    ) -> Reply:
        """Send a request, to be answered within ``timeout_s`` by a variant of at least ``min_accuracy``; 0: any.

        ``bounds`` are its other bounds. ``number`` determines its content.
        """
        ...


class _Parameters(msgspec.Struct):
    variant: str | None = None
    accuracy: float | None = None
    device: str | None = None
    batch_size: int | None = None
    stages: int | None = None
    fallback: bool = False
    cut: bool = False


class _OutputParameters(msgspec.Struct):
    binary_data_size: int


class _Output(msgspec.Struct):
    datatype: str
    parameters: _OutputParameters


class _Answer(msgspec.Struct):
    parameters: _Parameters = msgspec.field(default_factory=_Parameters)


class _AnswerWithOutputs(_Answer):
    outputs: list[_Output] = msgspec.field(default_factory=list)


class _ServerMetadata(msgspec.Struct):
    name: str = ""
    extensions: list[str] = msgspec.field(default_factory=list)


class _Metadata(msgspec.Struct):
    inputs: list[InputMetadata]


class ChangeReply(msgspec.Struct):
    """A change of plan: unix time, reason, seconds to solve, variants loaded and activated, and what changed."""

    unix_s: float
    reason: str
    solve_s: float
    swaps: int
    activated: int
    what: str


class ExpectedReply(msgspec.Struct):
    """The queries since the start, as far as plans expected anything for them, and how many they expected in time."""

    queries: float = 0.0
    in_time: float = 0.0


class FamilyReply(msgspec.Struct):
    """The part of a family's status that a report needs."""

    expected: ExpectedReply = msgspec.field(default_factory=ExpectedReply)


class StatusReply(msgspec.Struct):
    """The part of ``/v2/proteus/status`` that a report needs.

    ``pace`` is the slowdown by device. ``emulated``: its devices are emulated. ``attainment_target`` is by family, and
    ``estimated`` are the families with estimated accuracies.
    """

    policy: str
    slo_s: dict[str, float]
    best_accuracy: dict[str, float]
    pace: dict[str, float]
    changes: list[ChangeReply]
    emulated: bool
    attainment_target: dict[str, float]
    estimated: list[str]
    families: dict[str, FamilyReply]

    def expected_attainment(self, before: "StatusReply") -> dict[str, float]:
        """By family, what the plans in force expected since a status ``before``, in the mean over their queries.

        Families without an expectation are left out.
        """
        found = {}
        for family, now in self.families.items():
            then = before.families.get(family, FamilyReply())
            queries = now.expected.queries - then.expected.queries
            if queries > 0:
                found[family] = min((now.expected.in_time - then.expected.in_time) / queries, 1.0)  # but for rounding
        return found


class _Catalog(msgspec.Struct):
    catalog: Catalog
    digests: Digests


class _Placement(msgspec.Struct):
    family: str
    variant: str
    rate_qps: float


class _Plan(msgspec.Struct):
    placements: list[_Placement]


class HttpTarget:
    """The server that a client is of; `prepare` or `prepare_plain` comes first. A request carries one row.

    A Proteus server is told the time until the deadline as ``timeout``, and the bounds. Other servers are told neither:
    the target ``is_plain``. ``unfit``: eval splits that do not fit the server's models, by family, and why.
    """

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._samples: dict[str, list[Sample]] = {}
        self._heads: dict[str, bytes] = {}
        self.is_plain = False
        self.unfit: dict[str, ArtefactError] = {}

    @property
    def judged(self) -> frozenset[str]:
        """The families whose requests carry rows of an eval split, so that their answers are judged."""
        return frozenset(family for family, samples in self._samples.items() if samples[0].label is not None)

    async def prepare(
        self,
        families: tuple[str, ...],
        eval_splits: Mapping[str, Path] = MappingProxyType({}),
        last_rows: Mapping[str, int] = MappingProxyType({}),
    ) -> StatusReply:
        """Make sample requests for the families of a Proteus server, and return its status.

        Requests carry rows of an eval split that fits, else random rows. In families with ``last_rows``, the number of
        a request is its row, up to the last one. Emulated devices give no real answers, so their servers get random
        rows. Raises `ServerError`.
        """
        rng = np.random.default_rng(0)
        status = await self.status()
        for family in families:
            where, inputs = await self._model(family, "does the server serve all families that are asked for?")
            split = None if status.emulated else eval_splits.get(family)
            try:
                known = [] if split is None else eval_samples(split, inputs, where, rng, last_rows.get(family))
            except ArtefactError as error:
                known, self.unfit[family] = [], error
            self._samples[family] = known or random_samples(inputs, where, rng)
        for family in families:
            if not 0 < status.slo_s.get(family, 0.0) < math.inf:
                raise ServerError(f"`{self._client.url}` says no SLO of `{family}`.", hint="is it a Proteus server?")
        return status

    async def prepare_plain(self, model: str) -> None:
        """Make sample requests for one model of a server of any make, and send one.

        Tensors are binary if the server has the extension ``binary_tensor_data``, else JSON. Raises `ServerError`, also
        if the request is not answered.
        """
        self.is_plain = True
        server = await get_json(self._client, "/v2", _ServerMetadata, hint="is it a server of the protocol?")
        where, inputs = await self._model(model, "does it serve that model?")
        is_binary = "binary_tensor_data" in server.extensions
        self._samples[model] = random_samples(inputs, where, np.random.default_rng(0), is_binary=is_binary)
        if (await self.send(model, 0, 0.0, 0.0)).outcome is not Outcome.SERVED:
            raise ServerError(
                f"`{self._client.url}` does not answer a request for `{model}` with random inputs.",
                hint="send one with another client, and look at the server's log",
            )

    async def _model(self, name: str, hint: str) -> tuple[str, Sequence[InputMetadata]]:
        """The URL of a model, and its inputs."""
        path = f"/v2/models/{path_of(name)}"
        self._heads[name] = self._client.head("POST", f"{path}/infer")
        return f"{self._client.url}{path}", (await get_json(self._client, path, _Metadata, hint=hint)).inputs

    async def status(self) -> StatusReply:
        """The server's status. Raises `ServerError`."""
        return await get_json(self._client, "/v2/proteus/status", StatusReply, hint="is it a Proteus server?")

    async def served(self) -> CatalogContent:
        """The part of its catalog that the server serves. Raises `ServerError`."""
        found = await get_json(self._client, "/v2/proteus/catalog", _Catalog, hint=_OF_THIS_VERSION)
        return CatalogContent(found.catalog, found.digests)

    async def planned_qps(self, family: str) -> dict[str, float]:
        """The rate that the plan in force sends to each variant of a family, by its name in the catalog.

        During the roll-out of a version, a variant has the queries of both versions. Raises `ServerError`.
        """
        rates = defaultdict[str, float](float)
        for each in (await get_json(self._client, "/v2/proteus/plan", _Plan, hint=_OF_THIS_VERSION)).placements:
            if each.family == family:
                rates[name_in_catalog(each.variant)] += each.rate_qps
        return dict(rates)

    async def send(
        self, family: str, number: int, timeout_s: float, min_accuracy: float, bounds: Bounds | None = None
    ) -> Reply:
        """See `Target`. Raises `ServerError` if the answer of a Proteus server is no inference."""
        samples = self._samples[family]
        sample = samples[number % len(samples)]
        binary: dict[str, float] = {"binary_data_output": True} if sample.binary else {}
        parameters = binary if self.is_plain else request_parameters(timeout_s, min_accuracy, bounds)
        json = sample.json(parameters)
        reply = await post_inference(self._client, self._heads[family], json, sample.binary, timeout_s)
        if reply is None or reply.status != OK:
            return refused(reply)
        return Reply(Outcome.SERVED) if self.is_plain else self._read(reply, sample.label)

    def _read(self, reply: HttpReply, label: int | None) -> Reply:
        try:
            json = reply.body[: int(reply.headers.get(_JSON_LENGTH, len(reply.body)))]
            found = msgspec.json.decode(json, type=_Answer if label is None else _AnswerWithOutputs)
            is_correct = _is_correct(found, reply.body[len(json) :], label)
        except _NOT_JSON as error:
            raise ServerError(f"`{self._client.url}` answered something other than an inference: {error}.") from None
        answer = found.parameters
        return Reply(
            Outcome.SERVED,
            answer.accuracy,
            answer.variant,
            answer.device,
            answer.batch_size,
            is_deferred=answer.fallback or (answer.stages or 1) > 1,
            is_fallback=answer.fallback,
            is_correct=is_correct,
            is_cut=answer.cut,
        )


def request_parameters(timeout_s: float, min_accuracy: float, bounds: Bounds | None) -> dict[str, float]:
    """The parameters of a request with a deadline and bounds."""
    found: dict[str, float] = {"binary_data_output": True, "timeout": max(1, round(timeout_s * _US_PER_S))}
    if min_accuracy > 0:
        found["min_accuracy"] = min_accuracy
    if bounds is not None and bounds.min_expected_accuracy:
        found["min_expected_accuracy"] = bounds.min_expected_accuracy
    if bounds is not None and bounds.is_energy_limited:
        found["max_energy_j"] = bounds.max_energy_j
    if bounds is not None and bounds.needs_confidence:
        found["min_confidence"] = bounds.min_confidence
    return found


async def post_inference(
    client: HttpClient, head: bytes, json: bytes, binary: bytes, timeout_s: float
) -> HttpReply | None:
    """The reply to a request for inference; None: there was none, long after ``timeout_s``."""
    if binary:
        headers = b"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n" % len(json)
    else:
        headers = b"Content-Type: application/json\r\n"
    try:
        async with asyncio.timeout(timeout_s + REPLY_TIMEOUT_S):
            return await client.post(head, headers, json + binary)
    except OSError:  # TimeoutError is one
        return None


def refused(reply: HttpReply | None) -> Reply:
    """The end of a request that was not answered, by the header of a Proteus server, else by the status."""
    if reply is None:
        return Reply(Outcome.FAILED)
    outcome = _OUTCOMES.get(reply.headers.get(_OUTCOME, b""))
    return Reply(outcome or _OF_STATUS.get(reply.status, Outcome.FAILED))


async def is_proteus(client: HttpClient) -> bool:
    """Whether the server is a Proteus server, which may want a token. Raises `ServerError` if there is no server."""
    return (await _get(client, "/v2/proteus/status")).status in {OK, _UNAUTHORIZED}


async def get_json(client: HttpClient, path: str, kind: type[AnsweredT], *, hint: str) -> AnsweredT:
    """The decoded answer to GET. Raises `ServerError`, with the ``hint`` for another status than 200."""
    reply, where = await _get(client, path), f"{client.url}{path}"
    if reply.status != OK:
        raise ServerError(
            f"`{where}` answered {reply.status}: {reply.body[:200].decode(errors='replace')}",
            hint="set PROTEUS_TOKEN to a token that the server takes" if reply.status == _UNAUTHORIZED else hint,
        )
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except _NOT_JSON as error:
        raise ServerError(f"`{where}` answered something else than it should: {error}.") from None


async def _get(client: HttpClient, path: str) -> HttpReply:
    try:
        async with asyncio.timeout(REPLY_TIMEOUT_S):
            return await client.get(path)
    except OSError as error:
        is_late = isinstance(error, TimeoutError)
        why = f"no answer within {REPLY_TIMEOUT_S:.0f} s" if is_late else why_unreachable(error)
        raise ServerError(f"Can't reach the server at `{client.url}`: {why}.", hint="is it running?") from error


@asynccontextmanager
async def http_target(
    url: str, token: str | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[HttpTarget]:
    """A target whose connections are closed on the way out. Raises `UsageError` for a bad ``url``."""
    async with aclosing(HttpClient(url, token, tls)) as client:
        yield HttpTarget(client)


def _is_correct(answer: _Answer, binary: bytes, label: int | None) -> bool | None:
    """Whether the label has the highest score of the first output, as in profiles; None: unknown.

    Raises `ValueError` if the first output does not match its description.
    """
    if label is None or not isinstance(answer, _AnswerWithOutputs) or not answer.outputs:
        return None
    first = answer.outputs[0]
    if first.datatype not in NUMPY:
        return None
    scores = np.frombuffer(binary[: first.parameters.binary_data_size], NUMPY[first.datatype])
    return bool(np.argmax(scores) == label)
