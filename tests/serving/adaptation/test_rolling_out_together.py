"""Versions of several families are rolled out at the same time, in virtual time: none waits for another."""

import asyncio
from typing import Any

import pytest
from following import GONE_S, PLANNED_S
from rolling import MEASURED_S, NEW, STEPPED_S, Rolled, rolled

from proteus_cli.control.rollouts.guard import Arm
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import Conflict
from proteus_cli.serving.adaptation.rollout_steps import QUIET_S
from proteus_cli.serving.measuring_process import WAITS

SLOW_S = 10.0
QPS = 10.0


async def begin_both(server: Rolled) -> None:
    """Versions of families `f` and `g` are canaries."""
    server.catalog.retrain("good", "g-1", family="g")
    await server.live.read()
    await asyncio.sleep(2 * PLANNED_S)
    for family in ("f", "g"):
        await server.start(family=family)
    await asyncio.sleep(2 * STEPPED_S)
    assert [server.at(family) for family in ("f", "g")] == [("canary", None)] * 2


def reads_slowly(server: Rolled, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a roll-out of `g` has written takes its time to be read."""
    read = server.live.read

    async def slow(*, rolled_out: Any = (), **how: Any) -> bool:
        if "g" in rolled_out:
            await asyncio.sleep(SLOW_S)
        return await read(rolled_out=rolled_out, **how)

    monkeypatch.setattr(server.live, "read", slow)


def test_while_one_is_promoting_the_guard_of_another_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(server: Rolled) -> None:
        await begin_both(server)
        reads_slowly(server, monkeypatch)
        server.promote("g")
        await asyncio.sleep(1.0)
        guard = server.rollouts._of["f"].machine.guard
        for _ in range(200):
            guard.answered(Arm.NEW, None, is_failed=True)
        await asyncio.sleep(STEPPED_S)
        assert (server.at("g"), server.at("f")) == (("promoting", None), ("ended", "rolled back"))
        with pytest.raises(Conflict, match="a version of `g` is being named by the catalog: try again"):
            await server.start("good@33333333")
        assert (server.is_over("f"), server.hosted("f"), server.hosted("g")) == (True, {"good"}, {"good", NEW})
        await asyncio.sleep(SLOW_S)
        assert (server.at("g"), server.hosted("g")) == (("full", None), {NEW})

    rolled(story, monkeypatch, qps=QPS)


@pytest.mark.parametrize("after_s", [0.0, 0.05])
def test_two_are_promoted_and_taken_back_at_once(monkeypatch: pytest.MonkeyPatch, after_s: float) -> None:
    async def story(server: Rolled) -> None:
        await begin_both(server)
        for family in ("f", "g"):
            server.promote(family)
            await asyncio.sleep(after_s)
        await asyncio.sleep(2 * STEPPED_S)
        assert [(server.at(family), server.hosted(family)) for family in ("f", "g")] == [(("full", None), {NEW})] * 2
        assert [server.catalog.families[family]["good"] for family in ("f", "g")] == ["22222222"] * 2
        assert server.live._kept == {VariantKey("f", "good"), VariantKey("g", "good")}
        for family in ("f", "g"):
            server.abort(family)
            await asyncio.sleep(after_s)
        await asyncio.sleep(GONE_S + STEPPED_S)
        assert [(server.is_over(family), server.hosted(family)) for family in ("f", "g")] == [(True, {"good"})] * 2
        assert [server.catalog.families[family]["good"] for family in ("f", "g")] == ["good-1", "g-1"]
        assert (server.world.plane.arms, server.beside) == ({}, set())

    rolled(story, monkeypatch, qps=QPS)


def test_a_family_that_was_unloaded_while_another_was_promoted_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both changes of the catalog are read together."""

    async def story(server: Rolled) -> None:
        await begin_both(server)
        reads_slowly(server, monkeypatch)
        server.promote("g")
        await asyncio.sleep(1.0)
        server.world.plane.families.by_name["g"].why_out = "unloaded"
        server.promote("f")
        await asyncio.sleep(2 * SLOW_S + 2 * STEPPED_S)
        assert (server.at("f"), server.hosted("f")) == (("full", None), {NEW})
        assert (server.at("g"), server.catalog.families["g"]) == (("ended", "failed"), {"good": "g-1"})
        assert server.world.plane.families.by_name["g"].why_out == "unloaded"

    rolled(story, monkeypatch, qps=QPS)


def test_a_roll_out_tells_what_it_waits_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody asks family `g` anything."""
    caplog.set_level("INFO", "proteus.rollouts")

    async def story(server: Rolled) -> None:
        await begin_both(server)
        assert [server.rollouts.all[family].note for family in ("f", "g")] == ["", ""]
        await asyncio.sleep(QUIET_S)
        notes = [server.rollouts.all[family].note for family in ("f", "g")]
        assert notes == ["", f"no query has reached good or {NEW} for {QUIET_S + 2 * STEPPED_S - MEASURED_S:.0f} s"]
        server.abort("f")
        await asyncio.sleep(STEPPED_S)
        assert server.rollouts.all["f"].note == ""
        await server.start("good@33333333")
        await asyncio.sleep(0.1)
        assert server.rollouts.all["f"].note == WAITS

    rolled(story, monkeypatch, qps=QPS)
    assert f"measuring good@33333333: {WAITS}" in caplog.text


def test_when_the_server_stops_all_tasks_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """One measures, and one waits until the catalog is read."""

    async def story(server: Rolled) -> None:
        await begin_both(server)
        reads_slowly(server, monkeypatch)
        server.abort("f")
        await asyncio.sleep(STEPPED_S)
        await server.start("good@33333333")
        server.promote("g")
        await asyncio.sleep(0.1)
        assert server.at("g") == ("promoting", None)
        measuring = server.rollouts._of["f"].step
        assert measuring is not None
        stopped.append(measuring)

    stopped: list[asyncio.Task[None]] = []
    rolled(story, monkeypatch, qps=QPS)
    assert stopped[0].cancelled()
