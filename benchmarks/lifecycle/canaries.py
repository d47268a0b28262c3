"""Version roll-outs on a real server with labels: is an equal version promoted, and a worse one rolled back?

The server has one core for the family `digits` of the sample zoo, with one variant of medium size; client and front end
have another. Rows of the family's eval split are drawn with a seed, and come by an open-loop Poisson process. The label
of each answer is told soon after it. Then `proteus rollout start … --auto` brings a new version: the same network with
weights that differ by a thousandth, or by so much that it is `WORSE` less accurate on the eval split.
"""

import asyncio
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import uvloop

from benchmarks.adaptation.lab import Lab, until_warm
from benchmarks.lifecycle.labelling import Labelling
from benchmarks.lifecycle.noticing import Judge
from benchmarks.lifecycle.swap import FAMILY, VARIANT, Losses, losses, other_version
from benchmarks.tables import UNKNOWN, Aim, Table
from proteus_cli.backends.affinity import pinned
from proteus_cli.backends.discovery import discover
from proteus_cli.backends.registry import open_backend
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.request import Outcome
from proteus_cli.domain.rollouts import Ending, GuardMetric, RolloutStage, RolloutStatus
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.analysis.explain import max_multiple
from proteus_cli.replay.http_client import HttpClient
from proteus_cli.replay.inputs import InputMetadata, eval_samples
from proteus_cli.replay.loadgen import ReplayResult, replay
from proteus_cli.replay.local_server import local_server
from proteus_cli.replay.synthesis import Poisson, make_trace
from proteus_cli.serving.adaptation.rollout_requests import RolloutsStatus
from proteus_cli.settings import read_settings
from proteus_cli.store import write_json
from proteus_cli.store.eval_splits import labelled_rows

SEEDS = 3
EQUAL_NOISE = 1e-3
"""Of the weights of an equal version, relative."""
WORSE, NEARLY = 0.02, 0.003
"""The accuracy that a worse version lacks, and how near to that it is to be."""
STRONGEST, STEPS = 2.0, 30
"""Of the noise of its weights, and of the search for it."""
LOAD, MAX_QPS = 0.3, 600.0
"""Of what the variant carries, so that its core has time to measure and for the shadow; and what the client carries."""
SHADOW, CANARY = "10%", "5%,25%,50%"
BUDGET = "10s"
"""To measure the new version."""
BEFORE_S, AFTER_S, LASTS_S = 2.0, 3.0, 85.0
"""Of load before a roll-out and after its end, and in all at most."""
LOOK_S = 0.25
WITHIN = 2_000
GUARD_FAILS = "the guard fails"
"""How the reason of such a roll-back begins."""
NEW = f"{VARIANT}@2"


@dataclass(frozen=True)
class Verdict:
    """How a roll-out went on by itself. ``ending``: None where the new version was promoted; ``reason``: of the ending.

    ``labelled``: the queries that the new version had answered, with a label, by then. ``measuring_s`` of the
    ``took_s`` were before its first step.
    """

    ending: Ending | None
    labelled: int
    measuring_s: float
    took_s: float
    reason: str = ""

    @property
    def is_by_accuracy(self) -> bool:
        """It was rolled back as its guard failed, by the accuracy, if by other terms, too."""
        is_failed = self.ending is Ending.ROLLED_BACK and self.reason.startswith(GUARD_FAILS)
        return is_failed and GuardMetric.ACCURACY in self.reason


@dataclass(frozen=True)
class Case:
    """A roll-out of a version that lacks ``loss`` of accuracy, and its verdict; or the stage at which time was up."""

    is_worse: bool
    seed: int
    loss: float
    rate_qps: float
    verdict: Verdict | RolloutStage
    losses: Losses
    """``lost``: those that failed. What is dropped or rejected may be so by the load alone: it is a violation."""

    @property
    def is_right(self) -> bool:
        if isinstance(self.verdict, RolloutStage):
            return False
        if self.is_worse:
            return self.verdict.is_by_accuracy and self.verdict.labelled < WITHIN
        return self.verdict.ending is None


def measured(prepared: Lab, seeds: int) -> list[Case]:
    """With each of so many seeds, of both kinds."""
    return [_case(prepared, is_worse=is_worse, seed=seed) for is_worse in (False, True) for seed in range(seeds)]


def _case(prepared: Lab, *, is_worse: bool, seed: int) -> Case:
    lab = Lab(prepared.root.with_name(f"{'worse' if is_worse else 'equal'}-{seed}"), prepared.client_cores)
    shutil.copytree(prepared.root, lab.root)
    loss = _make_version(lab, seed, WORSE if is_worse else 0.0)
    planner = lab.planner(policy_named("proteus"), 1.2, Rules())
    rate_qps = min(LOAD * max_multiple(planner, {FAMILY: 1.0}), MAX_QPS)
    write_json(path := lab.place.plans_dir / "lifecycle.json", planner({FAMILY: rate_qps}))
    (tokens := lab.root / "tokens").write_text(token := secrets.token_hex(32))
    tokens.chmod(0o600)
    options = ("--replan=auto", f"--set=catalog-budget={BUDGET}", "--feedback=10min", f"--auth-tokens={tokens}")
    with local_server(path, lab.root, options=options) as url, pinned(lab.client_cores):
        until_warm(url, token)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            load, verdict = runner.run(_rolled_out(lab, url, token, rate_qps, seed))
    failed = sum(each.outcome is Outcome.FAILED for each in load.records)
    return Case(is_worse, seed, loss, rate_qps, verdict, replace(losses(load.records, _slo_s(lab)), lost=failed))


# --- versions


def _make_version(lab: Lab, seed: int, loss: float) -> float:
    """Write a version that lacks so much accuracy on the eval split, 0: hardly any; what it does lack."""
    old = lab.place.model_path(lab.place.catalog().family(FAMILY).variants[0].onnx or "")
    (new := old.parent / "2" / old.name).parent.mkdir()
    before = _accuracy(lab, old)

    def lost(noise: float) -> float:
        new.write_bytes(other_version(old, seed, noise))
        return before - _accuracy(lab, new)

    return lost(noise_for(lost, loss) if loss else EQUAL_NOISE)


def noise_for(lost: Callable[[float], float], loss: float) -> float:
    """The noise that costs about that much, by bisection. Raises `AssertionError` where none was found."""
    low, high = 0.0, STRONGEST
    for _ in range(STEPS):
        noise = (low + high) / 2
        if abs((found := lost(noise)) - loss) <= NEARLY:
            return noise
        low, high = (noise, high) if found < loss else (low, noise)
    raise AssertionError(f"no noise costs {loss:.1%}")


def _accuracy(lab: Lab, model: Path) -> float:
    (device, *_) = discover(read_settings(lab.root).devices)
    with open_backend(device).runner(model) as runner:
        return float(Judge(runner, *labelled_rows(_split(lab), runner.signature.inputs)).right(0.0).mean())


def _split(lab: Lab) -> Path:
    split = lab.place.eval_path(lab.place.catalog().family(FAMILY))
    assert split is not None
    return split


def _slo_s(lab: Lab) -> float:
    return lab.place.catalog().family(FAMILY).slo_s


# --- a roll-out under load


class _Metadata(msgspec.Struct):
    inputs: list[InputMetadata]


async def _rolled_out(
    lab: Lab, url: str, token: str, rate_qps: float, seed: int
) -> tuple[ReplayResult, Verdict | RolloutStage]:
    rng = np.random.default_rng(seed)
    trace = make_trace("poisson", Poisson(), rate_qps=rate_qps, duration_s=LASTS_S, shares={FAMILY: 1.0}, rng=rng)
    async with aclosing(HttpClient(url, token)) as client, asyncio.TaskGroup() as group:
        metadata = msgspec.json.decode((await client.get(f"/v2/models/{FAMILY}")).body, type=_Metadata)
        clients = Labelling(client, FAMILY, eval_samples(_split(lab), metadata.inputs, url, rng), rng)
        telling = group.create_task(clients.tell_all())
        judging = group.create_task(_judged(client, clients, url, token))
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        judging.add_done_callback(lambda _: loop.call_later(AFTER_S, stop.set))
        load = await replay(trace, clients, {FAMILY: _slo_s(lab)}, stop=stop)
        telling.cancel()
        judging.cancel()
        stage = (await _until(client, lambda _: True)).stage
    return load, stage if judging.cancelled() else judging.result()


async def _judged(client: HttpClient, clients: Labelling, url: str, token: str) -> Verdict:
    """Start a roll-out, and wait until its verdict is carried out."""
    await asyncio.sleep(BEFORE_S)
    start_s = time.perf_counter()
    await _start(url, token)
    await _until(client, lambda status: status.stage is not RolloutStage.MEASURING)
    measuring_s = time.perf_counter() - start_s
    await _until(client, lambda status: status.stage not in {RolloutStage.SHADOW, RolloutStage.CANARY})
    labelled, took_s = clients.told.get(NEW, 0), time.perf_counter() - start_s
    status = await _until(client, lambda status: status.stage is not RolloutStage.PROMOTING)
    return Verdict(status.ending, labelled, measuring_s, took_s, status.reason)


async def _start(url: str, token: str) -> None:
    command = ("rollout", "start", FAMILY, NEW, "--shadow", SHADOW, "--canary", CANARY, "--auto", "--url", url)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proteus_cli", "-q", *command, env=os.environ | {"PROTEUS_TOKEN": token}
    )
    assert await process.wait() == 0, "the roll-out does not start"


async def _until(client: HttpClient, holds: Callable[[RolloutStatus], bool]) -> RolloutStatus:
    while True:
        reply = await client.get("/v2/proteus/rollouts")
        (status,) = msgspec.json.decode(reply.body, type=RolloutsStatus).rollouts
        if holds(status):
            return status
        await asyncio.sleep(LOOK_S)


# --- results


def table(cases: Sequence[Case]) -> Table:
    columns = (
        "version", "lacks, pt", "verdict", "labelled", "measured, s", "verdict, s", "requests", "failed",
        "violations, %",
    )  # fmt: skip
    rows = tuple(
        (
            f"{'worse' if each.is_worse else 'equal'} {each.seed}", f"{100 * each.loss:.2f}",
            *_of_verdict(each.verdict), f"{each.losses.requests:,}", str(each.losses.lost),
            f"{100 * each.losses.violations:.2f}",
        )
        for each in cases
    )  # fmt: skip
    note = (
        f"{cases[0].rate_qps:.0f} requests a second; shadow {SHADOW}, canary {CANARY}. Versions by their seed, and the "
        "accuracy that they lack; labelled: canary queries with a label until the verdict; seconds since the start."
    )
    return Table("Version roll-outs on a server", columns, rows, note)


def _of_verdict(verdict: Verdict | RolloutStage) -> tuple[str, str, str, str]:
    if isinstance(verdict, RolloutStage):
        return f"none: {verdict}", UNKNOWN, UNKNOWN, UNKNOWN
    by = " (not by its accuracy)" if verdict.ending is Ending.ROLLED_BACK and not verdict.is_by_accuracy else ""
    ending = "promoted" if verdict.ending is None else f"{verdict.ending}{by}"
    return ending, f"{verdict.labelled:,}", f"{verdict.measuring_s:.1f}", f"{verdict.took_s:.1f}"


def aims(cases: Sequence[Case]) -> list[Aim]:
    """What the issue asks for."""
    equal, worse = ([each.is_right for each in cases if each.is_worse is is_worse] for is_worse in (False, True))
    failed = sum(each.losses.lost for each in cases)
    what = f"worse versions rolled back before {WITHIN:,} labelled canary queries"
    return [
        Aim("equal versions promoted", sum(equal), len(equal), f"of {len(equal)}", is_most=False),
        Aim(what, sum(worse), len(worse), f"of {len(worse)}", is_most=False),
        Aim("requests that failed in roll-outs", failed, 0, "requests", is_most=True),
    ]
