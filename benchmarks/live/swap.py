"""A new version of the model that serves, put in place under load, and its cost for the requests that come meanwhile.

One core hosts one variant of the family `digits`, at 60 % of its capacity. A file takes the place of the model's: the
same network with weights that differ by a thousandth. The server reads its catalog, measures the new version with the
rest of the core, loads it beside the old one, and switches. A core may be slower for some seconds than when it was
profiled, so each round has a run with the same arrivals in which nothing is replaced.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from msgspec.structs import replace
from onnx import numpy_helper

from benchmarks.frame import Aim, Found, Run, Table, spread
from benchmarks.live.lab import Lab, laboratory, replayed
from proteus_cli.control.policies import PROTEUS
from proteus_cli.domain.catalog import Catalog, name_in_catalog
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.analysis.explain import max_multiple
from proteus_cli.replay.synthesis import Poisson, make_trace
from proteus_cli.store import write_text
from proteus_cli.store.catalog_text import new_text

FAMILY, VARIANT = "digits", "digits-l"
LOAD, BUDGET = 0.6, "30s"
BEFORE_S, LASTS_S, QUICK_S = 5.0, 75.0, 60.0
LOST = frozenset({Outcome.FAILED, Outcome.REJECTED, Outcome.DROPPED})
MAX_VIOLATIONS_PERCENT, MAX_SWAP_S = 0.2, 60.0


@dataclass(frozen=True)
class Swapped:
    """A round: seconds from the file to the first answer of the new version, and the two runs' losses.

    Requests lost and SLO violations in percent are since the file was put in place: with the change, and without it.
    """

    took_s: float
    lost: tuple[int, int]
    violations: tuple[float, float]


def swap(run: Run) -> Found:
    """Rounds with a change and without one."""
    lab = laboratory(run.directory / "ws", BUDGET).copy("swap")
    catalog = lab.place.catalog()
    family = catalog.family(FAMILY)
    variants = tuple(each for each in family.variants if each.name == VARIANT)
    alone = Catalog(catalog.format, (replace(family, variants=variants),))
    write_text(lab.place.catalog_path, new_text(alone, made_by="python -m benchmarks.live"))
    found = [_round(lab, seed, QUICK_S if run.is_quick else LASTS_S) for seed in range(run.rounds)]
    cells = {
        "file to first answer, s": spread([each.took_s for each in found], ".1f"),
        "lost": spread([each.lost[0] for each in found], ".0f"),
        "lost without a change": spread([each.lost[1] for each in found], ".0f"),
        "violations, %": spread([each.violations[0] for each in found]),
        "violations without a change, %": spread([each.violations[1] for each in found]),
    }
    title = f"A new version at {LOAD:.0%} of the variant's capacity; medians of {run.rounds} rounds"
    lost = median(max(0, each.lost[0] - each.lost[1]) for each in found)
    added = median(each.violations[0] - each.violations[1] for each in found)
    took_s = median(each.took_s for each in found)
    return Found(
        (Table(title, ("measure", "value"), tuple(cells.items())),),
        (
            Aim("requests lost by a change", lost, 0, "requests", is_most=True),
            Aim("violations added by a change", added, MAX_VIOLATIONS_PERCENT, "%", is_most=True),
            Aim("from the file to the first answer", took_s, MAX_SWAP_S, "s", is_most=True),
        ),
    )


def _round(prepared: Lab, seed: int, lasts_s: float) -> Swapped:
    """The run without a change is the first one in every second round. Raises `AssertionError` if none takes over."""
    runs = {}
    for is_changed in (True, False) if seed % 2 else (False, True):
        lab = prepared.copy(f"round-{seed}-{is_changed}")
        runs[is_changed] = _under_load(lab, seed, lasts_s, is_changed=is_changed)
    slo_s = prepared.place.catalog().family(FAMILY).slo_s
    after, file_s = runs[True]
    new = [each for each in after if each.variant is not None and each.variant != name_in_catalog(each.variant)]
    assert new, "the new version never answered"
    lost, violations = zip(*(_losses(runs[is_changed][0], slo_s) for is_changed in (True, False)), strict=True)
    return Swapped(new[0].arrival_s - file_s, lost, violations)


def _under_load(lab: Lab, seed: int, lasts_s: float, *, is_changed: bool) -> tuple[list[RequestRecord], float]:
    """The requests after the file was put in place, or would have been, in their order, and that moment."""
    planner = lab.planner(PROTEUS, 1.2, Rules())
    rate_qps = LOAD * max_multiple(planner, {FAMILY: 1.0})
    rng, shares = np.random.default_rng(seed), {FAMILY: 1.0}
    trace = make_trace("poisson", Poisson(), rate_qps=rate_qps, duration_s=lasts_s, shares=shares, rng=rng)
    model = lab.place.model_path(lab.place.catalog().family(FAMILY).variants[0].onnx or "")
    plan, options = planner({FAMILY: rate_qps}), ("--replan=auto", f"--set=catalog-budget={BUDGET}", "--set=watch=true")
    with lab.served(plan, *options) as url, _replacing(model if is_changed else None, seed) as replaced_unix_s:
        load, _ = replayed(url, trace)
    file_s = replaced_unix_s[0] - load.started_unix_s if is_changed else BEFORE_S
    after = [each for each in load.records if each.arrival_s >= file_s]
    return sorted(after, key=lambda each: each.arrival_s), file_s


@contextmanager
def _replacing(model: Path | None, seed: int) -> Iterator[list[float]]:
    """Meanwhile another version takes the place of a model, `BEFORE_S` from now; the list gets when (Unix time)."""
    at_unix_s: list[float] = []

    def put(old: Path) -> None:
        time.sleep(BEFORE_S)
        new = old.with_suffix(".new")
        new.write_bytes(_other_version(old, seed))
        new.replace(old)
        at_unix_s.append(time.time())

    thread = threading.Thread(target=put, args=(model,)) if model else None
    if thread:
        thread.start()
    try:
        yield at_unix_s
    finally:
        if thread:
            thread.join()


def _other_version(model: Path, seed: int) -> bytes:
    rng, network = np.random.default_rng(seed), onnx.load(model)
    for weights in network.graph.initializer:
        values = numpy_helper.to_array(weights)
        if values.dtype == np.float32:
            noisy = values * (1 + 1e-3 * rng.standard_normal(values.shape)).astype(np.float32)
            weights.CopyFrom(numpy_helper.from_array(noisy, weights.name))
    content: bytes = network.SerializeToString()
    return content


def _losses(records: Sequence[RequestRecord], slo_s: float) -> tuple[int, float]:
    """Requests lost, and the percentage that violated the SLO."""
    late = sum(each.latency_s is None or each.latency_s > slo_s for each in records)
    return sum(each.outcome in LOST for each in records), 100 * late / max(len(records), 1)
