"""The peak of a server: one that is started for it, or any at a URL that speaks the protocol."""

import ssl
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proteus_cli.domain.demand import Demand
from proteus_cli.errors import UsageError
from proteus_cli.progress import Advance
from proteus_cli.replay.http_client import HttpClient
from proteus_cli.replay.local_server import local_server
from proteus_cli.replay.target import HttpTarget, is_proteus
from proteus_cli.store import write_json
from proteus_cli.studies.draft import JobTurn
from proteus_cli.studies.peak.carriers import LiveCarrier, event_loop, one_by_one_s
from proteus_cli.studies.peak.measuring import measured_peak
from proteus_cli.studies.peak.question import PeakQuestion, Planned
from proteus_cli.studies.results import Peak

_FIRST_OF_ONE_BY_ONE = 0.5
"""Where the search begins, as a part of the rate of requests that are sent one after another."""
MAX_QPS = 20_000.0
"""The highest rate that this load generator is asked for: it can send some thousand requests per second."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is, and how to talk to it. ``slo_s``: None where the server is to say it."""

    url: str
    token: str | None = None
    tls: ssl.SSLContext | None = None
    slo_s: float | None = None


def served_peak(planned: Planned, rule: str, question: PeakQuestion, turn: JobTurn) -> Peak:
    """The peak of a plan that is served here, in a process of its own, on devices that are emulated or not."""
    ends_s = time.monotonic() + turn.allowed_s
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "plan.json"
        write_json(path, planned.plan)
        options = ["--replan", "off", "--batching", rule]
        if planned.workspace.state is not None:
            options += ["--state", str(planned.workspace.state)]
        turn.advance("a server starts", 0.0)
        with local_server(path, planned.workspace.root, emulate=question.mode == "emulated", options=options) as url:
            return server_peak(Server(url), planned.mix, question, planned.first_qps, ends_s, turn.advance)


def require_served(server: Server, family: str, min_accuracy: float = 0.0) -> None:
    """Raise `ServerError` where there is no such server or family.

    Raises `UsageError` where no SLO is known, or where the server takes no least accuracy.
    """
    with event_loop() as (runner, stack):
        target, _ = runner.run(_prepared(server, (family,), stack))
        if min_accuracy and target.is_plain:
            raise UsageError(
                f"The server at `{server.url}` takes no `--min-accuracy`: it is no Proteus server.", hint="leave it out"
            )


def server_peak(
    server: Server,
    mix: Demand,
    question: PeakQuestion,
    first_qps: float | None,
    ends_s: float,
    advance: Advance,
) -> Peak:
    """The peak of a server, until the clock (`time.monotonic`) says ``ends_s``; None: no rate is known to begin with.

    Raises `ServerError`; and `UsageError` where nobody says an SLO.
    """
    with event_loop() as (runner, stack):
        target, slo_s = runner.run(_prepared(server, tuple(mix), stack))
        longest_s = max(slo_s.values())
        if first_qps is None:
            advance("requests one by one", 0.0)
            first_qps = _FIRST_OF_ONE_BY_ONE / float(
                runner.run(one_by_one_s(target, next(iter(mix)), longest_s, question.rules.min_accuracy)).mean()
            )
        carrier = LiveCarrier(target, runner, slo_s, mix, longest_s, question.rules.min_accuracy)
        rules = msgspec.structs.replace(question.rules, most_qps=min(question.rules.most_qps, MAX_QPS))
        peak = measured_peak(carrier, rules, first_qps, ends_s - time.monotonic(), question.seed, advance)
        return msgspec.structs.replace(peak, slo_s=longest_s, family=", ".join(mix))


async def _prepared(
    server: Server, families: tuple[str, ...], stack: AsyncExitStack
) -> tuple[HttpTarget, Mapping[str, float]]:
    """A target, with requests for these families, and their SLOs."""
    client = await stack.enter_async_context(aclosing(HttpClient(server.url, server.token, server.tls)))
    target = HttpTarget(client)
    if await is_proteus(client):
        said = (await target.prepare(families)).slo_s
        return target, {family: server.slo_s or said[family] for family in families}
    if server.slo_s is None:
        raise UsageError(f"The server at `{server.url}` says no SLO.", hint="give one: `--slo 50ms`")
    if len(families) > 1:
        raise UsageError("Requests go to one model of a server.", hint="name one with `--family`")
    await target.prepare_plain(families[0])
    return target, {families[0]: server.slo_s}
