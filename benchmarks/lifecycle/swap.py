"""A new version of the model that serves, put in place under load: what it costs the requests that come meanwhile.

The family `digits` of the sample zoo has one core; client and front end have another. It has one variant, of medium
size, and requests come at 60 % of what that carries, by an open-loop Poisson process. After a while a file takes the
place of the model's: the same network, with weights that differ by a thousandth, so that it is as fast. The server is
told to read its catalog, measures the new version with what is left of the core, loads it beside the old one, and
switches. Answers say which version gave them.

A core may be slower for some seconds than when it was profiled, as others use the machine. So each round has a run with
the same arrivals in which nothing is replaced, before the other or after it by turns: what a change costs is what comes
on top of that.
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from msgspec.structs import replace
from onnx import numpy_helper

from benchmarks.adaptation.lab import Lab, replayed, until_warm
from benchmarks.tables import Aim, Table
from proteus_cli.backends.affinity import pinned
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.catalog import Catalog, name_in_catalog
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.analysis.explain import max_multiple
from proteus_cli.replay.loadgen import ReplayResult
from proteus_cli.replay.local_server import local_server
from proteus_cli.replay.synthesis import Poisson, make_trace
from proteus_cli.store import write_json, write_text
from proteus_cli.store.catalog_text import new_text

FAMILY, VARIANT = "digits", "digits-l"
LOAD = 0.6
"""Of what the variant carries."""
BUDGET = "30s"
"""To measure the new version."""
BEFORE_S, LASTS_S = 5.0, 75.0
"""Of load before the file is replaced, and in all."""
AROUND_S = 1.0
"""The change is looked at from so long before the switch to as long after it."""
LOST = frozenset({Outcome.FAILED, Outcome.REJECTED, Outcome.DROPPED})
MAX_VIOLATIONS_PERCENT, MAX_SWAP_S = 0.2, 60.0


@dataclass(frozen=True)
class Losses:
    """Of the requests that came after `BEFORE_S`: how many there were, were lost, and violated the SLO, a fraction."""

    requests: int
    lost: int
    violations: float


@dataclass(frozen=True)
class Swap:
    """One change: seconds from the file to the first answer of the new version, and what requests it cost.

    ``around``: SLO violations within `AROUND_S` of the switch, a fraction. ``mixed_s``: from the first answer of the
    new version to the last of the old one.
    """

    took_s: float
    after: Losses
    around: float
    mixed_s: float


@dataclass(frozen=True)
class Round:
    """The same arrivals with a change and without one."""

    swap: Swap
    unchanged: Losses

    @property
    def lost(self) -> int:
        """Requests that the change lost: none where as many are lost without it."""
        return max(0, self.swap.after.lost - self.unchanged.lost)

    @property
    def violations(self) -> float:
        """What the change adds to the SLO violations, a fraction of the requests; below 0 where it adds none."""
        return self.swap.after.violations - self.unchanged.violations


def prepare(lab: Lab) -> None:
    """Leave one family with one variant in the catalog."""
    catalog = lab.place.catalog()
    family = catalog.family(FAMILY)
    variants = tuple(each for each in family.variants if each.name == VARIANT)
    alone = Catalog(catalog.format, (replace(family, variants=variants),))
    write_text(lab.place.catalog_path, new_text(alone, made_by="python -m benchmarks.lifecycle"))


def compared(prepared: Lab, seed: int) -> Round:
    """One round, in copies of the workspace. Raises `AssertionError` where nothing takes over."""
    if seed % 2:
        unchanged = _unchanged(prepared, seed)
        return Round(_swapped(prepared, seed), unchanged)
    swap = _swapped(prepared, seed)
    return Round(swap, _unchanged(prepared, seed))


def _swapped(prepared: Lab, seed: int) -> Swap:
    lab = _copy(prepared, f"round-{seed}")
    family = lab.place.catalog().family(FAMILY)
    model = lab.place.model_path(family.variants[0].onnx or "")
    with _under_load(lab, seed) as replay, _replacing(model, seed) as replaced:
        load = replay()
    return judged(load.records, replaced[0] - load.started_unix_s, slo_s=family.slo_s)


def _unchanged(prepared: Lab, seed: int) -> Losses:
    lab = _copy(prepared, f"unchanged-{seed}")
    with _under_load(lab, seed) as replay:
        load = replay()
    after = [each for each in load.records if each.arrival_s >= BEFORE_S]
    return losses(after, lab.place.catalog().family(FAMILY).slo_s)


def _copy(prepared: Lab, name: str) -> Lab:
    lab = Lab(prepared.root.with_name(name), prepared.client_cores)
    shutil.copytree(prepared.root, lab.root)
    return lab


@contextmanager
def _under_load(lab: Lab, seed: int) -> Iterator[Callable[[], ReplayResult]]:
    """A warm server, and what sends it the load."""
    planner = lab.planner(policy_named("proteus"), 1.2, Rules())
    rate_qps = LOAD * max_multiple(planner, {FAMILY: 1.0})
    path = lab.place.plans_dir / "lifecycle.json"
    write_json(path, planner({FAMILY: rate_qps}))
    trace = make_trace(
        "poisson", Poisson(), rate_qps=rate_qps, duration_s=LASTS_S, shares={FAMILY: 1.0},
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    options = ("--replan=auto", f"--set=catalog-budget={BUDGET}", "--set=watch=true")
    with local_server(path, lab.root, options=options) as url, pinned(lab.client_cores):
        until_warm(url)
        yield lambda: replayed(url, trace)[0]


@contextmanager
def _replacing(model: Path, seed: int) -> Iterator[list[float]]:
    """Meanwhile another version takes the place of a model, `BEFORE_S` from now; the list gets when (Unix time)."""
    at_unix_s: list[float] = []

    def put() -> None:
        time.sleep(BEFORE_S)
        new = model.with_suffix(".new")
        new.write_bytes(other_version(model, seed))
        new.replace(model)
        at_unix_s.append(time.time())

    thread = threading.Thread(target=put)
    thread.start()
    try:
        yield at_unix_s
    finally:
        thread.join()


def other_version(model: Path, seed: int, noise: float = 1e-3) -> bytes:
    """The same network with weights that differ by a thousandth, or by another relative ``noise``."""
    rng, network = np.random.default_rng(seed), onnx.load(model)
    for weights in network.graph.initializer:
        values = numpy_helper.to_array(weights)
        if values.dtype == np.float32:
            noisy = values * (1 + noise * rng.standard_normal(values.shape)).astype(np.float32)
            weights.CopyFrom(numpy_helper.from_array(noisy, weights.name))
    content: bytes = network.SerializeToString()
    return content


def judged(records: list[RequestRecord], file_s: float, *, slo_s: float) -> Swap:
    """What the records of a run say, in which the file was replaced at ``file_s``."""
    after = sorted((each for each in records if each.arrival_s >= file_s), key=lambda each: each.arrival_s)
    new = [each for each in after if each.variant is not None and each.variant != name_in_catalog(each.variant)]
    assert new, "the new version never answered"
    first_s, last_new = new[0].arrival_s, {id(each) for each in new}
    old = [each for each in after if each.variant is not None and id(each) not in last_new]
    around = [each for each in after if abs(each.arrival_s - first_s) <= AROUND_S]
    return Swap(
        first_s - file_s,
        losses(after, slo_s),
        losses(around, slo_s).violations,
        max([each.arrival_s - first_s for each in old if each.arrival_s > first_s], default=0.0),
    )


def losses(records: list[RequestRecord], slo_s: float) -> Losses:
    late = sum(each.latency_s is None or each.latency_s > slo_s for each in records)
    return Losses(len(records), sum(each.outcome in LOST for each in records), late / len(records) if records else 0.0)


def table(found: list[Round]) -> Table:
    columns = (
        "round",
        "file to first answer, s",
        "requests",
        "lost",
        "without a change",
        "violations, %",
        "without a change, %",
        "around the switch, %",
        "mixed, s",
    )
    rows = tuple(
        (
            str(number), f"{each.swap.took_s:.1f}", f"{each.swap.after.requests:,}",
            str(each.swap.after.lost), str(each.unchanged.lost),
            f"{100 * each.swap.after.violations:.2f}", f"{100 * each.unchanged.violations:.2f}",
            f"{100 * each.swap.around:.2f}", f"{each.swap.mixed_s:.3f}",
        )
        for number, each in enumerate(found, start=1)
    )  # fmt: skip
    note = f"at {LOAD:.0%} of what the variant carries; violations since the file, and {AROUND_S:g} s around the switch"
    return Table("A new version under load", columns, rows, note)


def aims(found: list[Round]) -> list[Aim]:
    """What issue and docs promise of a change: what it adds to a run without one."""
    lost, violations = median(each.lost for each in found), 100 * median(each.violations for each in found)
    took_s = median(each.swap.took_s for each in found)
    return [
        Aim("requests lost by a change", lost, 0, "requests", is_most=True),
        Aim("violations added by a change", violations, MAX_VIOLATIONS_PERCENT, "%", is_most=True),
        Aim("from the file to the first answer", took_s, MAX_SWAP_S, "s", is_most=True),
    ]
