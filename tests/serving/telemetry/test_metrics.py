"""What `/metrics` says can be read by Prometheus, keeps to its rules, and is written fast."""

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from builders import hosted, make_measured, make_placement, make_plan, make_profile, make_request
from hypothesis import given
from hypothesis import strategies as st
from lint import problems
from looping import loop_around
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proteus_cli.backends.base import Signature
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import FailedLoad
from proteus_cli.control.devices.breaker import BreakerEvent
from proteus_cli.control.policies import live_policy_named
from proteus_cli.control.rollouts.version_rollout import VersionRollout
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import Outcome
from proteus_cli.domain.rollouts import RolloutSpecification
from proteus_cli.errors import BadRequest, EngineError
from proteus_cli.serving.adaptation.solver import SolverState
from proteus_cli.serving.devices.executor import ExecutorBase
from proteus_cli.serving.lifecycle import TaskErrors, task_errors
from proteus_cli.serving.requests.counts import Histogram
from proteus_cli.serving.requests.data_plane import make_data_plane
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.telemetry.metrics import OPENMETRICS, TEXT, LoopLag, Metrics, rollout_metrics, written
from proteus_cli.serving.telemetry.telemetry import Sources
from proteus_cli.serving.transport.connections import Connections

Parse = Callable[[str], Iterable[Metric]]
FORMATS: list[Any] = [
    pytest.param(b"text/plain", TEXT, parse_text, id="text"),
    pytest.param(b"application/openmetrics-text; version=1.0.0", OPENMETRICS, parse_openmetrics, id="openmetrics"),
]
VARIANTS = {f"v{number}": 0.5 + number / 100 for number in range(6)}


def counted(families: int, devices: int, run_on: int) -> Metrics:
    """Metrics of so large a deployment, where every variant has run on ``run_on`` devices."""
    names = [f"family-{number}" for number in range(families)]
    ids = [f"gpu{number}" for number in range(devices)]
    served = [ServedFamily(name, Signature((), ()), 0.1, max_rows=64, best_accuracy=0.9) for name in names]
    controller = Controller(dict.fromkeys(names, 0.1), dict.fromkeys(ids, 1), live_policy_named("proteus"))
    placed = [(device, names[place % families]) for place, device in enumerate(ids)]
    plan = make_plan(*(make_placement(device, family, "v0") for device, family in placed))
    controller.adopt(plan, [hosted(d, f, "v0", latency_s={1: 0.01, 4: 0.02}) for d, f in placed], 0.0)
    idle: Any = ExecutorBase("none", print)
    plane = make_data_plane(
        controller, served, ids, lambda _device, _on_lost: idle, lambda: 1.0, models={},
        profiles={device: make_profile(device, make_measured(f, "v0", 0.9, {1: 0.01})) for device, f in placed},
    )  # fmt: skip
    fleet = plane.fleet
    if ids:
        fleet.breakers[ids[0]].on(BreakerEvent.HUNG, 1.0, "a test")
        fleet.broken_engines.failed(FailedLoad(ids[0], VariantKey(names[0], "v0"), EngineError("a test")))
    for counts in plane.counts.by_family.values():
        for variant in VARIANTS:
            for device in ids[:run_on]:
                counts.ended(Outcome.SERVED, variant, device, requests=12_345)
                counts.ended(Outcome.LATE, variant, device)
                counts.ran(rows=2, compute_s=0.009, now_s=1.0)
                counts.waited([0.001, 0.02], [0.011, 0.03])
                counts.served(
                    1, rows=1, decoding_s=0.002, waited_s=0.001, took_s=0.01, compute_s=0.009, accuracy=0.9, now_s=1.0
                )  # fmt: skip
    for number in range(50):
        controller.offer(make_request(number, family=names[0]), 1.0)
    plane.admission.count_refusal(BadRequest("a test"))
    task_errors.setdefault("Recovery.run", TaskErrors())
    sources = Sources(plane, loop_around(plane), "auto", SolverState())
    return Metrics(sources, Connections(max_connections=9, max_body_bytes=9), LoopLag())


def shown(accept: bytes, *size: int) -> tuple[bytes, bytes]:
    async def run() -> tuple[bytes, bytes]:
        return await counted(*size).page(accept)

    return asyncio.run(run())


@pytest.mark.parametrize(("accept", "content_type", "parse"), FORMATS)
def test_all_of_it_is_read_back_and_keeps_to_the_rules(accept: bytes, content_type: bytes, parse: Parse) -> None:
    content, said = shown(accept, 2, 3, 2)
    assert said == content_type
    lines = content.decode()
    families = list(parse(lines))
    assert len(families) > 40
    assert len({family.name for family in families}) == len(families)
    complaints = {}
    for family in families:
        is_counter_named = f"\n{family.name}_total" in lines
        found = problems(family, is_counter_named=is_counter_named)
        if found and not family.name.startswith(("nv_inference_", "python_")):  # names that others have chosen
            complaints[family.name] = found
    assert complaints == {}


@pytest.mark.parametrize(("accept", "content_type", "parse"), FORMATS)
def test_histograms_add_up(accept: bytes, content_type: bytes, parse: Parse) -> None:
    content, _ = shown(accept, 1, 1, 1)
    latency = next(f for f in parse(content.decode()) if f.name == "proteus_request_latency_seconds")
    of = {(s.name.rpartition("_")[2], s.labels.get("le")): s.value for s in latency.samples}
    assert of["bucket", "0.01"] == 0  # of two requests in each of six batches: 11 and 30 ms, within an SLO of 100
    assert of["bucket", "0.025"] == 6
    assert of["bucket", "0.05"] == of["bucket", "0.1"] == of["bucket", "+Inf"] == of["count", None] == 12
    assert of["sum", None] == pytest.approx(6 * (0.011 + 0.030))


@pytest.mark.parametrize(("accept", "content_type", "parse"), FORMATS)
def test_the_error_budget_is_that_of_the_target(accept: bytes, content_type: bytes, parse: Parse) -> None:
    """Each of six variants served 12,345 requests and was late once."""
    content, _ = shown(accept, 1, 1, 1)
    values = {family.name: [sample.value for sample in family.samples] for family in parse(content.decode())}
    assert values["proteus_attainment_target"] == [0.995]
    assert values["proteus_error_budget_used_ratio"] == [pytest.approx(6 / (0.005 * 6 * 12_346))]


def test_without_requests_no_error_budget_is_told() -> None:
    content, _ = shown(b"text/plain", 1, 1, 0)
    assert b'proteus_attainment_target{family="family-0"} 0.995\n' in content
    assert b"proteus_error_budget_used_ratio{" not in content


NUMBERS = st.floats(allow_nan=False) | st.integers(0, 2**53)


@given(samples=st.lists(st.tuples(st.text(), st.text(), NUMBERS), unique_by=lambda entry: entry[:2], max_size=5))
def test_labels_of_any_text_are_read_back(samples: list[tuple[str, str, float]]) -> None:
    wanted = {(one, other): float(number) for one, other, number in samples if "\r" not in one + other}
    text = written([("some_gauge", "Help.", "one other", wanted)]).decode()
    found = [sample for family in parse_text(text) for sample in family.samples]
    assert {(s.labels["one"], s.labels["other"]): s.value for s in found} == wanted


@given(st.lists(st.floats(0, 100), max_size=30))
def test_a_histogram_counts_each_value_once_in_its_bucket(values: list[float]) -> None:
    histogram, at_once = Histogram((0.1, 1.0, 10.0)), Histogram((0.1, 1.0, 10.0))
    for value in values:
        histogram.add(value)
    if values:
        at_once.add_all(values)
    assert at_once.counts == histogram.counts
    assert at_once.total == pytest.approx(histogram.total)
    (family,) = parse_text(written([("h", "Help.", "", {(): histogram})]).decode())
    buckets = {float(s.labels["le"]): s.value for s in family.samples if s.name == "h_bucket"}
    assert buckets == {bound: sum(v <= bound for v in values) for bound in (0.1, 1.0, 10.0, math.inf)}


def test_a_large_deployment_is_shown_whole() -> None:
    """20 families of 6 variants on 100 devices, each variant having run on ten."""

    async def run() -> bytes:
        content, _ = await counted(20, 100, 10).page(b"")
        return content

    assert asyncio.run(run()).count(b"\n") > 4000


def stages(rollouts: dict[str, VersionRollout]) -> dict[str, list[str]]:
    """By family, the stages that are told to be."""
    text = written(rollout_metrics("ab", {name: each.status(9.0) for name, each in rollouts.items()}, {})).decode()
    lines = [each for each in text.splitlines() if each.startswith("proteus_rollout_stage{")]
    assert len(lines) == 2 * 5
    assert {each.rpartition(" ")[2] for each in lines} <= {"0.0", "1.0"}
    return {
        family: [each.split('"')[3] for each in lines if f'family="{family}"' in each and each.endswith(" 1.0")]
        for family in "ab"
    }


def test_the_stage_of_a_rollout_is_told_and_that_there_is_none() -> None:
    one = VersionRollout(RolloutSpecification("a", "m", "m@2", shadow_frac=0.1, canary_fracs=(0.5,)), 0.1, 0.0)
    assert stages({}) == {"a": [], "b": []}
    assert stages({"a": one}) == {"a": ["measuring"], "b": []}
    one.ready(1.0)
    assert stages({"a": one}) == {"a": ["shadow"], "b": []}
    one.promote(2.0)
    assert stages({"a": one}) == {"a": ["canary"], "b": []}
    one.promote(3.0)
    assert stages({"a": one}) == {"a": ["promoting"], "b": []}
    one.promoted(4.0)
    assert stages({"a": one}) == {"a": ["full"], "b": []}
    one.abort(5.0, "")
    assert stages({"a": one}) == {"a": [], "b": []}
