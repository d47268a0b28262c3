"""The paired benchmark: pairs stay pairs, both trees take turns, and a figure beyond its bound is marked."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from benchmarks.compare.__main__ import PROBE, PairedFigure, shown
from benchmarks.serving.venvs import ROOT


def _figure(pairs: list[tuple[float, float]]) -> PairedFigure:
    return PairedFigure("tiny-json, per request", "µs", 1e-6, pairs)


def test_both_trees_take_turns_and_the_order_alternates() -> None:
    calls: list[str] = []

    def measure(name: str, value: float) -> Callable[[], float]:
        def call() -> float:
            calls.append(name)
            return value

        return call

    figure = _figure([])
    figure.take_turns(measure("base", 2.0), measure("ours", 3.0), rounds=3)
    assert calls == ["base", "ours", "ours", "base", "base", "ours"]
    assert figure.pairs == [(2.0, 3.0)] * 3


def test_the_median_of_the_ratios_counts_not_the_ratio_of_the_medians() -> None:
    figure = _figure([(1.0, 1.02), (10.0, 10.2), (100.0, 300.0)])
    assert figure.ratio == pytest.approx(1.02)
    assert figure.is_reached


def test_a_figure_beyond_three_percent_is_marked() -> None:
    console = Console(width=120)
    with console.capture() as printed:
        console.print(shown([_figure([(1.0, 1.04)] * 3), _figure([(1.0, 1.03)] * 3)]))
    marks = [line.rstrip()[-1] for line in printed.get().splitlines() if "per request" in line]
    assert marks == ["✗", "✓"]


def test_a_probe_measures_this_tree_once_for_each_line() -> None:
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    command = (sys.executable, str(PROBE), "planner", "no such directory")
    done = subprocess.run(command, input="\n\n", env=variables, capture_output=True, text=True, timeout=100, check=True)
    ready, *measured = done.stdout.split()
    assert ready == "ready"
    assert len(measured) == 2
    assert all(float(each) > 0 for each in measured)
