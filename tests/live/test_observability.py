"""The documents on what a server shows say what it shows: the table of metrics, and the dashboard."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import hosted, make_cascade, make_placement, make_plan
from eventful import eventful
from live_server import LiveServer
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as untyped_parse
from short_forms import parse_condition

from proteus_cli.control.alarms import LiveAccuracy, ShiftWatch
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import HostedVariant
from proteus_cli.control.policies import PROTEUS
from proteus_cli.control.slot_tuner import SlotTuner
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.serving.requests.samples.capture import SampleCounts
from proteus_cli.serving.telemetry.metrics import (
    OPENMETRICS,
    cascade_metrics,
    condition_metrics,
    cut_metrics,
    feedback_metrics,
    host_metrics,
    sample_metrics,
    sharing_metrics,
    shift_metrics,
    slot_metrics,
    written,
)
from proteus_cli.serving.telemetry.state import HostState, HostStatus

pytestmark = [pytest.mark.live, pytest.mark.alone]

parse: Callable[[str], Iterable[Metric]] = untyped_parse

DOCS = Path(__file__).parents[2] / "docs"
ALERTS = DOCS.parent / "deploy" / "prometheus" / "alerts.yml"
PAGE = (DOCS / "observability.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((DOCS / "grafana-dashboard.json").read_text(encoding="utf-8"))
OF_SCRAPING = {"job", "instance"}  # labels that Prometheus adds
COLUMNS = 24

NAME = re.compile(r"\b(?:proteus|nv|process|python)_\w+")
SELECTOR = re.compile(r"(\w+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)(=~|=|!=)"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on) \(([^)]*)\)")
LEGEND = re.compile(r"\{\{(\w+)\}\}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with eventful(tmp_path_factory.mktemp("observed") / "ws") as live:
        yield live


@pytest.fixture(scope="module")
def text(server: LiveServer) -> str:
    """What this server shows, and what one with a cluster and cascades shows besides."""
    return server.get("/metrics").body.decode() + elsewhere()


def elsewhere() -> str:
    host = HostStatus(HostState.CONNECTED, 1.0, "", "10.0.0.2:7000", 8, 8, 1, 0, 0.0004, 1000, 2000)
    controller = Controller({}, {}, PROTEUS)
    cascades = controller.cascades
    cascades.use(*with_a_cascade())
    (route,) = cascades.in_use
    cascades.observe(route.stage, (0, 1))
    live = LiveAccuracy()
    live.observe(1.0, 0.9)
    watch = ShiftWatch(("mean",), np.zeros((40, 1)))
    metrics = (
        host_metrics({"b": host}),
        sharing_metrics({"b/cpu0": (2, 1.5)}),
        cascade_metrics(controller),
        cut_metrics({"a": {("s", 2): 3, ("s", 1): 1}, "b": {}}),
        condition_metrics({"a": parse_condition("confidence >= 0.8")}),
        feedback_metrics({VariantKey("a", "s"): live}, {VariantKey("a", "l"): live}),
        shift_metrics({"a": watch}, {VariantKey("a", "s"): watch}),
        sample_metrics(SampleCounts({"a": 3}, {("a", "busy"): 1}, 1000)),
        slot_metrics({"gpu0": busy_tuner()}, 2.0),
    )
    return written(chain.from_iterable(metrics)).decode()


def busy_tuner() -> SlotTuner:
    """Of a device of two slots, one of which was busy for a while."""
    tuner = SlotTuner(2, 0.0)
    for batch in range(60):
        tuner.ended(tuner.began(batch / 60), 0.01, (batch + 1) / 60)
        tuner.look((batch + 1) / 60)
    assert tuner.knee == 1
    return tuner


def with_a_cascade() -> tuple[Plan, tuple[HostedVariant, ...]]:
    hosts = hosted("cpu0", "a", "s", latency_s={1: 0.01}), hosted("cpu1", "a", "l", latency_s={1: 0.02})
    placements = (make_placement(host.device, host.family, host.variant) for host in hosts)
    cascade = make_cascade("a", "s", "l", rate_qps=10.0)
    plan = make_plan(*placements, demand_qps={"a": 10.0}, devices=("cpu0", "cpu1"), cascades=(cascade,))
    return plan, hosts


@pytest.fixture(scope="module")
def seen(text: str) -> dict[str, dict[str, set[str]]]:
    """Values by label by name of sample."""
    found: dict[str, dict[str, set[str]]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, rest = line.rpartition(" ")[0].partition("{")
            labels = found.setdefault(name, {})
            for label, _, value in MATCHER.findall(rest):
                labels.setdefault(label, set()).add(value)
    return found


def described(text: str, seen: dict[str, dict[str, set[str]]]) -> dict[str, tuple[str, set[str]]]:
    """Type and labels by name of metric."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    samples = {name: f"{name}_count" if kind == "histogram" else name for name, kind in kinds.items()}
    return {name: (kind, set(seen[samples[name]])) for name, kind in kinds.items()}


def test_the_table_lists_all_metrics_and_no_others(text: str, seen: dict[str, dict[str, set[str]]]) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram|untyped) \| (.*?) \| .+ \|$", PAGE, re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert len(rows) == len(documented)
    assert documented == described(text, seen)


def test_openmetrics_is_served_when_accept_names_it(server: LiveServer, text: str) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    reply = server.ask("GET", "/metrics", headers={"accept": accept})
    assert reply.headers["content-type"] == OPENMETRICS.decode()
    names = {family.name for family in parse(reply.body.decode())}
    in_text = re.findall(r"^# TYPE (\S+)", text.removesuffix(elsewhere()), re.MULTILINE)
    assert names == {name.removesuffix("_total") for name in in_text}


# --- the dashboard

EXPRESSIONS: list[Any] = [
    pytest.param(target["expr"], target["legendFormat"], id=f"{panel['title']} {target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
]


@pytest.mark.parametrize(("expression", "legend"), EXPRESSIONS)
def test_a_panel_queries_metrics_that_exist(expression: str, legend: str, seen: dict[str, dict[str, set[str]]]) -> None:
    names = set(NAME.findall(expression))
    assert names
    assert names <= set(seen)
    for name, matchers in SELECTOR.findall(expression):
        for label, _, value in MATCHER.findall(matchers):
            assert label in seen[name].keys() | OF_SCRAPING
            assert value.startswith("$") or value in seen[name][label]
    groups = {label.strip() for inside in GROUPING.findall(expression) for label in inside.split(",")}
    assert groups <= {label for name in names for label in seen[name]}
    shown = set(LEGEND.findall(legend))
    assert shown <= (groups or {label for name in names for label in seen[name]} | OF_SCRAPING)
    assert "rate(" not in expression or "[$__rate_interval]" in expression


def test_the_rules_for_alerts_query_metrics_that_exist(seen: dict[str, dict[str, set[str]]]) -> None:
    rules = re.findall(r"^ +expr: (.+)$", ALERTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rules) == 12
    assert sum("up{" in rule for rule in rules) == 1  # Prometheus' own
    for rule in rules:
        assert set(NAME.findall(rule)) <= set(seen)
        for name, matchers in SELECTOR.findall(rule):
            assert name == "up" or all(value in seen[name][label] for label, _, value in MATCHER.findall(matchers))


def test_variables_and_annotations_of_the_dashboard_query_metrics_that_exist(
    seen: dict[str, dict[str, set[str]]],
) -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    used = {name for expression in EXPRESSIONS for name in re.findall(r"\$(?!__)(\w+)", expression.values[0])}
    assert used == variables.keys() - {"datasource"}
    for name in used:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variables[name]["definition"]).groups()  # type: ignore[union-attr]
        assert label in seen[metric].keys() | OF_SCRAPING
    marks = [mark for mark in DASHBOARD["annotations"]["list"] if "expr" in mark]
    assert [set(NAME.findall(mark["expr"])) <= set(seen) for mark in marks] == [True]


def test_every_metric_of_ours_with_a_panel_is_on_the_dashboard() -> None:
    """All of ours but what only names things, or is better shown by another."""
    shown = {name for expression in EXPRESSIONS for name in NAME.findall(expression.values[0])}
    shown |= {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    ours = set(re.findall(r"^\| `(proteus_\w+)`", PAGE, re.MULTILINE))
    elsewhere = {
        "proteus_build_info", "proteus_condition_info", "proteus_demand_qps", "proteus_effective_accuracy",
        "proteus_plan_timestamp_seconds",
    }  # fmt: skip
    assert ours - shown == elsewhere


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= COLUMNS for place in places)
    for one, other in combinations(places, 2):
        apart = any(a[at] + a[size] <= b[at] for a, b in ((one, other), (other, one)) for at, size in ("xw", "yh"))
        assert apart, (one, other)
    for panel in panels:
        assert panel["type"] in {"row", "stat", "timeseries", "state-timeline"}
        targets = panel.get("targets", ())
        assert len({target["refId"] for target in targets}) == len(targets)
        assert all(target["datasource"]["uid"] == "${datasource}" for target in targets)
