"""Multi-exit models on another host, in a process there: cut short, moved by a confidence, answered before their batch.

The clock of the server is a million seconds behind that of the agent.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from agents import linked, remote_device, run, running_agent
from exit_nets import exit_stages, inputs_of
from short_forms import parse_condition

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.serving.devices.executor import Batch, BatchResult
from proteus_cli.serving.devices.process import client as servers_module
from proteus_cli.serving.devices.remote.sessions.executor import RemoteExecutor
from proteus_cli.store.models.exit_chains import ExitChain, chain_file

KEY = VariantKey("f", "v")
HOUR_S, BEHIND_S = 3600.0, 1e6
QUICK, SLOW = (ExitProfile(points=(StagePoint(1, s, s), StagePoint(6, s, s))) for s in (1e-9, HOUR_S))
ALL_QUICK, SLOW_END = (QUICK, QUICK, QUICK), (QUICK, QUICK, SLOW)

Told = list[tuple[Sequence[int], BatchResult]]


@pytest.fixture(autouse=True)
def _clocks_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers_module, "time", SimpleNamespace(monotonic=now_s))


def now_s() -> float:
    """By the server's clock."""
    return time.monotonic() - BEHIND_S


@asynccontextmanager
async def on_a_host(directory: Path, stop_when: str) -> AsyncIterator[RemoteExecutor]:
    """A chain of three stages, loaded by an agent."""
    model = chain_file(ExitChain(tuple(exit_stages(directory)), parse_condition(stop_when), "margin"), directory)
    async with running_agent(directory) as agent, linked(agent.address) as link:
        executor = remote_device(link)
        await executor.load(KEY, model, 6)
        yield executor
        executor.close()


async def told(executor: RemoteExecutor, bounds: ExitBounds) -> Told:
    """What comes of six rows, in this order: parts that leave the batch, and all of it."""
    found, ended = Told(), asyncio.Event()

    def done(result: BatchResult | Exception) -> None:
        assert isinstance(result, BatchResult)
        found.append((range(len(bounds.rows)), result))
        ended.set()

    content, first, parts = inputs_of(6)["x"], 0, list[Any]()
    for rows in bounds.rows:
        parts.append((rows, (content[first : first + rows].tobytes(),)))
        first += rows
    executor.submit(Batch(KEY, parts, 6, bounds, leaving=lambda *each: found.append(each)), done)
    await ended.wait()
    return found


def test_what_has_no_time_for_a_stage_is_cut_short_there_and_leaves_its_batch(tmp_path: Path) -> None:
    """The last stage takes an hour by the profile: one part of two rows has half an hour, and one is in no hurry."""

    async def test() -> None:
        async with on_a_host(tmp_path, "exit >= 3") as executor:
            due_s = [now_s() + each * HOUR_S for each in (2, 0.5, math.inf)]
            (places, of_part), (_, whole) = await told(executor, ExitBounds(due_s, [2, 2, 2], SLOW_END))
            ended_s = now_s()
            assert list(places) == [1]
            exits, _, cut, *_ = whole.notes
            assert exits.tolist() == [3, 3, 2, 2, 3, 3]
            assert cut.tolist() == [False, False, True, True, False, False]
            for values, of_all in zip(of_part.given, whole.given, strict=True):
                np.testing.assert_array_equal(values, of_all[2:4])
            assert ended_s - HOUR_S < of_part.ended_s <= whole.ended_s <= ended_s

    run(test)


def test_no_row_stops_where_it_is_less_confident_than_its_request_asks_for(tmp_path: Path) -> None:
    async def test() -> None:
        async with on_a_host(tmp_path, "exit >= 1") as executor:
            least = [math.inf, -math.inf, -math.inf]
            bounds = ExitBounds([now_s() + HOUR_S] * 3, [1, 2, 3], ALL_QUICK, min_confidence=least)
            ((_, whole),) = await told(executor, bounds)
            exits, _, cut, held, _ = whole.notes
            assert exits.tolist() == [3, 1, 1, 1, 1, 1]
            assert held.tolist() == [1] * 6
            assert not cut.any()

    run(test)


@pytest.mark.parametrize(("waited_s", "stops_at"), [(2 * HOUR_S, 1), (0.0, 3)])
def test_a_live_condition_knows_how_long_a_row_has_waited(tmp_path: Path, waited_s: float, stops_at: int) -> None:
    """In place of the model's own, by which each row goes to the end; one request goes by that all the same."""

    async def test() -> None:
        async with on_a_host(tmp_path, "exit >= 3") as executor:
            sent_s = now_s()
            bounds = ExitBounds(
                [sent_s + 9 * HOUR_S] * 2,
                [4, 2],
                ALL_QUICK,
                stop_when=parse_condition("latency >= 3600"),
                arrival_s=[sent_s - waited_s] * 2,
                by_own=[False, True],
            )
            ((_, whole),) = await told(executor, bounds)
            assert whole.notes[0].tolist() == [stops_at] * 4 + [3] * 2

    run(test)
