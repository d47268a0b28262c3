"""Sure answers are checked by the second stage of a cascade, and a drift is told wherever a server shows itself."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cascaded import add_cascaded_plan, answered, shapes_workspace
from injecting import until_holds
from live_server import LiveServer, serving

from proteus_cli.arrays import Singles
from proteus_cli.domain.stages.cascade import SureRows

pytestmark = pytest.mark.live

ROWS = np.random.default_rng(5).normal(size=(100, 4)).astype(np.float32)
PAIR = '{family="shapes",first="shapes-s",by="shapes-l"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """`shapes-s` defers what has a margin below 0.5; on 1,000 surer rows `shapes-l` gave the same class."""
    made = shapes_workspace(tmp_path_factory.mktemp("checks"))
    path = add_cascaded_plan(made, sure_rows=SureRows(1000, 0))
    with serving(made.root, path, "--replan=off", "--check-sample", "1") as live:
        yield live
        assert live.stop() == 0, live.log.read_text()


def checks(server: LiveServer) -> dict[str, Any]:
    (cascade,) = server.status()["families"]["shapes"]["cascades"]
    return cascade["checks"] or {"checked": 0, "disagreed": 0, "drifts": False}


def repeated(server: LiveServer, row: Singles, holds: Callable[..., bool]) -> dict[str, Any]:
    """Ask for a row, again and again, until its checks are as wanted."""
    while not holds(found := checks(server)):
        assert answered(server, row[None])[0]["stages"] == 1
    return found


@pytest.fixture(scope="module")
def sure(server: LiveServer) -> dict[bool, Singles]:
    """A row that `shapes-s` is sure of, by whether `shapes-l`, asked alone, gives the same class."""
    found: dict[bool, Singles] = {}
    for row in ROWS:
        told, scores = answered(server, row[None])
        if told["stages"] == 1 and len(found) < 2:
            best = answered(server, row[None], min_accuracy=0.9)[1]
            found[bool(scores[0].argmax() == best[0].argmax())] = row
    return found


def test_a_check_finds_what_the_other_variant_answers(server: LiveServer, sure: dict[bool, Singles]) -> None:
    """One check may be under way when the rows change, so what is counted is what came after it."""
    for agrees, row in sure.items():
        at_first = checks(server)["checked"]
        before = repeated(server, row, lambda found, least=at_first + 2: found["checked"] >= least)
        least = before["checked"] + 3
        after = repeated(server, row, lambda found, least=least: found["checked"] >= least)
        assert after["by"] == "shapes-l"
        grown = after["checked"] - before["checked"]
        assert after["disagreed"] - before["disagreed"] == (0 if agrees else grown)


def test_a_drift_is_told_by_status_metrics_page_and_log(server: LiveServer, sure: dict[bool, Singles]) -> None:
    found = repeated(server, sure[False], lambda found: bool(found["drifts"]))
    assert found["expected"] == pytest.approx([0.0, 0.0038], abs=1e-4)
    metrics = server.get("/metrics").body.decode()
    assert f"proteus_cascade_drift{PAIR} 1" in metrics
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("proteus_cascade"))
    assert float(values[f"proteus_cascade_checks_total{PAIR}"]) >= found["checked"]
    assert float(values[f"proteus_cascade_disagreements_total{PAIR}"]) >= found["disagreed"]
    told = "the confidence of shapes-s drifts: shapes-l gives another class in more than 0.4 % of its sure answers"
    assert server.log.read_text().count(told) == 1
    history = until_holds(
        lambda: server.get("/v2/proteus/history").document()["families"]["shapes"],
        lambda found: bool(found["drifts"]),
    )
    assert 0 < history["disagreed"] <= 1
