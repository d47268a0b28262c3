"""Devices die, hang and break, engines turn out to be spoilt: no request fails by that, or as few as can be."""

import asyncio
import logging
from typing import Any

import pytest
from failing import LOAD_S, LOOK_S, SOLVE_S, VARIANTS, World, answers, played
from virtual_loop import VirtualLoop

from proteus_cli.control.devices.breaker import (
    FIRST_RETRY_S,
    LONGEST_RETRY_S,
    LONGEST_TURN_S,
    MIN_HANG_TIMEOUT_S,
    NEEDED_RETRY_S,
    Breaker,
    BreakerEvent,
    BreakerState,
)
from proteus_cli.control.replanning.replan_rules import ForecastRule
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import NONE_OUT, Outages, host_of
from proteus_cli.domain.profile_changes import without_variants
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import BuildCancelled, DeviceLost, EngineError, EngineFailed, HostLost, NotReady
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult
from proteus_cli.serving.fleet.loading import HURRIED_S, LIMIT_MULTIPLE
from proteus_cli.serving.fleet.recovery import EVERY_S, Recovery

BOTH = {"cpu0": "good", "cpu1": "good"}
HOST_A = ("a/cpu0", "a/cpu1")
BACK_S = FIRST_RETRY_S + LOAD_S + 2 * EVERY_S + 0.1  # opened, loaded, tried out
RATE_QPS = 120.0  # 60 % of what both carry, and more than one of them does
WATCHED_S = 10.0


def test_with_one_of_two_devices_lost_at_60_percent_load_few_requests_notice() -> None:
    """The target: what ran there is run on the other, and under 2 % of the next 10 s go wrong."""

    async def lose_one(world: World) -> None:
        before = await world.ask(RATE_QPS, 2.0)
        assert set(world.counted) == {Outcome.SERVED}
        asking = asyncio.create_task(world.ask(RATE_QPS, WATCHED_S))
        while not world.fleet.workers["cpu0"].is_busy:
            await asyncio.sleep(0.001)
        world.executor("cpu0").die()
        asked = await asking
        await asyncio.sleep(1.0)
        bad = before + asked - world.counted[Outcome.SERVED]
        assert bad / asked < 0.02
        assert Outcome.FAILED not in world.counted
        assert world.plane.counts.by_family["f"].retried > 0
        assert world.state("cpu0") is BreakerState.CLOSED
        assert set(answers(world)[-50:]) == {"cpu0", "cpu1"}

    world = played(lose_one, BOTH)
    assert Outages(devices=frozenset({"cpu0"})) in world.asked
    assert world.asked[-1] == NONE_OUT


def test_what_ran_on_a_lost_device_is_answered_by_the_other() -> None:
    async def lose(world: World) -> None:
        for _ in range(8):
            world.submit()
        await asyncio.sleep(0.005)
        assert world.fleet.workers["cpu0"].is_busy
        world.executor("cpu0").die()
        assert world.hosts == {"cpu1": {"good"}}
        await asyncio.sleep(0.2)
        assert set(answers(world)) == {"cpu1"}
        assert world.counted == {Outcome.SERVED: 8}

    played(lose, BOTH, replans=False)


def test_what_has_no_time_left_is_dropped_and_not_run_again() -> None:
    async def lose(world: World) -> None:
        world.submit(timeout_s=0.011)
        world.submit(timeout_s=0.011)
        await asyncio.sleep(0.005)
        world.executor("cpu0").die()
        await asyncio.sleep(0.5)
        assert world.counted == {Outcome.SERVED: 1, Outcome.DROPPED: 1}
        assert len(world.executor("cpu1").batches) == 1

    played(lose, BOTH, replans=False)


def test_a_request_that_was_running_on_two_devices_when_they_were_lost_fails() -> None:
    """It may be what they were lost for; a third shall not be."""

    async def lose_both(world: World) -> None:
        world.submit(timeout_s=9.0)
        for _ in range(2):
            await asyncio.sleep(0.002)
            busy = next(device for device, worker in world.fleet.workers.items() if worker.is_busy)
            world.executor(busy).die()
        (result,) = world.results
        assert isinstance(result, EngineFailed)
        await asyncio.sleep(5.0)
        assert world.counted == {Outcome.FAILED: 1}

    played(lose_both, BOTH, replans=False)


def test_whose_client_has_gone_or_deadline_has_passed_is_not_run_again() -> None:
    async def lose(world: World) -> None:
        world.executor("cpu0").hangs = world.executor("cpu1").hangs = True
        gone = world.submit()
        late = world.submit(timeout_s=0.1)
        assert gone is not None
        assert late is not None
        await asyncio.sleep(0.01)
        world.plane.admission.cancel(gone)
        world.results.append(NotReady("nobody is told; it counts all the same"))
        await asyncio.sleep(0.2)
        for device in BOTH:
            world.executor(device).die()
        await asyncio.sleep(BACK_S)
        assert [len(executor.batches) for executor in world.opened] == [1, 1]  # of the probation
        assert world.counted == {Outcome.DROPPED: 1, Outcome.LATE: 1}

    played(lose, BOTH, replans=False)


def test_a_device_that_hangs_is_given_up_and_opened_again() -> None:
    async def hang(world: World) -> None:
        first = world.executor("cpu0")
        first.hangs = True
        for _ in range(2):
            world.submit(timeout_s=9.0)
        await asyncio.sleep(MIN_HANG_TIMEOUT_S - 0.05)
        assert world.state("cpu0") is BreakerState.CLOSED
        await asyncio.sleep(0.05 + 4 * EVERY_S)
        assert world.state("cpu0") is BreakerState.OPEN
        assert world.counted == {Outcome.SERVED: 2}
        await asyncio.sleep(BACK_S)
        assert world.state("cpu0") is BreakerState.CLOSED
        assert world.executor("cpu0") is not first

    played(hang, BOTH, replans=False)


def test_a_device_whose_host_is_away_is_back_soon_after_the_host_however_long_that_took() -> None:
    """No probation fails meanwhile, which would lengthen the pauses up to a minute."""

    async def away(world: World) -> None:
        world.unreachable.add("cpu0")
        world.executor("cpu0").die()
        opened = len(world.opened)
        await asyncio.sleep(5 * LONGEST_RETRY_S)
        assert len(world.opened) == opened
        assert world.state("cpu0") is BreakerState.OPEN
        world.unreachable.clear()
        await asyncio.sleep(BACK_S - FIRST_RETRY_S)
        assert world.state("cpu0") is BreakerState.CLOSED

    played(away, BOTH, replans=False)


def test_a_host_that_is_lost_again_and_again_is_tried_at_longer_pauses() -> None:
    async def flap(world: World) -> None:
        for times in range(5):
            assert world.state("cpu0") is BreakerState.CLOSED
            world.executor("cpu0").die()
            await asyncio.sleep(2**times * FIRST_RETRY_S - EVERY_S)
            assert world.state("cpu0") is BreakerState.OPEN
            await asyncio.sleep(BACK_S - FIRST_RETRY_S + EVERY_S)

    played(flap, BOTH, replans=False)


def test_batches_that_end_unnoticed_while_the_loop_is_held_up_do_not_hang() -> None:
    """At each check another batch seems to be overdue."""

    async def hold_up(world: World) -> None:
        device, loop = world.fleet.workers["cpu0"], world.loop
        assert isinstance(loop, VirtualLoop)
        recovery = Recovery(world.fleet, world.controller, world.profiles, loop.time)
        for _ in range(5):
            world.submit(timeout_s=9.0)
            while not device.is_busy:
                await asyncio.sleep(0)
            loop.now_s += 2 * MIN_HANG_TIMEOUT_S
            recovery.check()
            while device.is_busy:
                await asyncio.sleep(0.001)
        assert world.fleet.breakers["cpu0"].opened == 0
        assert world.counted == {Outcome.SERVED: 5}

    played(hold_up, {"cpu0": "good"}, replans=False)


def test_on_a_machine_without_time_for_the_checks_no_device_hangs() -> None:
    """Batches take long there, too: only checks that come in time count."""

    async def starve(world: World) -> None:
        device, loop = world.fleet.workers["cpu0"], world.loop
        assert isinstance(loop, VirtualLoop)
        world.executor("cpu0").hangs = True
        recovery = Recovery(world.fleet, world.controller, world.profiles, loop.time)
        world.submit(timeout_s=9.0)
        while not device.is_busy:
            await asyncio.sleep(0)
        for _ in range(10):
            loop.now_s += MIN_HANG_TIMEOUT_S
            recovery.check()
        assert world.fleet.breakers["cpu0"].opened == 0
        for _ in range(2):
            loop.now_s += EVERY_S
            recovery.check()
        assert world.fleet.breakers["cpu0"].opened == 1
        await asyncio.sleep(BACK_S)
        assert world.counted == {Outcome.SERVED: 1}

    played(starve, {"cpu0": "good"}, replans=False)


def test_a_batch_of_a_probation_may_end_after_its_device_was_given_up() -> None:
    async def late(world: World) -> None:
        held: list[BatchCallback] = []

        class Slow:
            def submit(self, _: Batch, done: BatchCallback) -> None:
                held.append(done)

        slow: Any = Slow()
        with pytest.raises(DeviceLost):
            await world.fleet.loader.prove(slow, VariantKey("f", "good"), 1, 0.5)
        held[0](BatchResult((), 0.5))

    played(late, BOTH, replans=False)


def test_a_device_counts_again_only_once_it_has_run_a_real_batch() -> None:
    async def come_back(world: World) -> None:
        world.executor("cpu0").die()
        await asyncio.sleep(FIRST_RETRY_S + EVERY_S + LOAD_S / 2)
        assert world.state("cpu0") is BreakerState.HALF_OPEN
        world.opened[0].hangs = True
        await asyncio.sleep(LOAD_S + MIN_HANG_TIMEOUT_S + EVERY_S)
        assert world.state("cpu0") is BreakerState.OPEN  # the batch did not end
        assert world.fleet.breakers["cpu0"].reason == (
            "cpu0 was killed; then: a batch of good did not end within 0.5 s"
        )
        await asyncio.sleep(2 * FIRST_RETRY_S + LOAD_S + 2 * EVERY_S)
        assert world.state("cpu0") is BreakerState.CLOSED
        assert [len(executor.batches) for executor in world.opened] == [1, 1]
        assert world.executor("cpu0") is world.opened[1]
        assert world.hosts == {"cpu0": {"good"}, "cpu1": {"good"}}

    played(come_back, BOTH, replans=False)


def test_a_device_that_can_not_be_opened_is_tried_ever_more_seldom() -> None:
    async def shut(world: World) -> None:
        world.shut.add("cpu0")
        world.executor("cpu0").die()
        await asyncio.sleep(10.0)
        breaker = world.fleet.breakers["cpu0"]
        assert breaker.reason == "cpu0 was killed; then: cpu0 can't be opened"
        assert breaker.retry_s() - breaker.since_s >= 8 * FIRST_RETRY_S
        assert breaker.opened == 1
        world.shut.clear()
        await asyncio.sleep(20.0)
        assert breaker.is_closed

    played(shut, BOTH)


def test_a_family_without_any_device_gets_one_back_soon_however_often_its_devices_are_lost() -> None:
    async def storm(world: World) -> None:
        for _ in range(8):
            for device in BOTH:
                world.executor(device).die()
            await asyncio.sleep(NEEDED_RETRY_S + LOAD_S + 2 * EVERY_S + 0.1)
            assert [world.state(device) for device in BOTH] == [BreakerState.CLOSED] * 2

    played(storm, BOTH)


def test_a_device_that_no_family_needs_waits_longer_until_one_does() -> None:
    async def storm(world: World) -> None:
        breaker = world.fleet.breakers["cpu0"]
        for _ in range(4):  # after pauses of 0.5, 1, 2 and 4 s
            world.executor("cpu0").die()
            await asyncio.sleep(10.0)
        world.executor("cpu0").die()
        await asyncio.sleep(NEEDED_RETRY_S + 1.0)
        assert breaker.state is BreakerState.OPEN
        world.executor("cpu1").die()
        await asyncio.sleep(LOAD_S + 2 * EVERY_S + 0.1)
        assert breaker.is_closed

    played(storm, BOTH)


def test_a_variant_that_is_gone_from_the_catalog_is_no_candidate_of_a_probation() -> None:
    """Its profile may be older than the catalog."""

    async def gone(world: World) -> None:
        world.fleet.loader.forget_models([VariantKey("f", "fast")])
        world.spoilt[VariantKey("f", "good")] = EngineError("it can't be loaded")
        world.executor("cpu0").die()
        await asyncio.sleep(BACK_S)
        assert world.fleet.breakers["cpu0"].reason == "cpu0 was killed; then: no engine works on it"

    played(gone, BOTH, replans=False)


def test_an_engine_that_fails_on_every_batch_costs_no_answer() -> None:
    """Its device is opened afresh; what it could not answer, the other does."""

    async def breaks(world: World) -> None:
        world.broken.add(("cpu0", VariantKey("f", "good")))
        asked = await world.ask(50.0, 3.0)
        assert world.counted[Outcome.SERVED] >= asked - 1  # the last may still be on its way
        assert world.fleet.breakers["cpu0"].opened == 1
        assert world.hosts == {"cpu0": {"fast"}, "cpu1": {"good"}}
        world.broken.clear()
        await asyncio.sleep(60.0)
        asked += await world.ask(150.0, 20.0)  # more than one device carries
        await asyncio.sleep(1.0)
        assert world.counted == {Outcome.SERVED: asked}
        assert world.hosts == {"cpu0": {"good"}, "cpu1": {"good"}}

    played(breaks, BOTH)


@pytest.mark.parametrize(("servers", "losses"), [(1, 1), (2, 0)])
def test_the_check_of_a_suspect_engine_waits_for_the_turns_of_other_servers(servers: int, losses: int) -> None:
    """Its batch takes less than a turn longer than a batch may on a device that is not shared."""

    async def checked(world: World) -> None:
        world.fleet.share("cpu0", servers)
        breaker = world.fleet.broken_engines.breakers["cpu0", VariantKey("f", "fast")] = Breaker()
        for event in (BreakerEvent.BROKE, BreakerEvent.RETRIED):
            breaker.on(event, world.loop.time(), "it failed on everything")
        executor, submit = world.executor("cpu0"), world.executor("cpu0").submit

        def in_its_turn(batch: Batch, done: BatchCallback) -> None:
            world.loop.call_later(
                MIN_HANG_TIMEOUT_S + 0.9 * LONGEST_TURN_S, lambda: executor.is_lost or submit(batch, done)
            )

        executor.submit = in_its_turn  # type: ignore[method-assign]
        await world.adaptation.apply(world.plan_of({"cpu0": "fast", "cpu1": "good"}), "file", "by hand")
        assert world.fleet.breakers["cpu0"].opened == losses

    played(checked, BOTH, replans=False)


def test_while_all_devices_of_a_family_are_lost_it_is_not_ready_and_says_when_to_come_back() -> None:
    async def lose_all(world: World) -> None:
        for device in BOTH:
            world.executor(device).die()
        world.submit()
        (result,) = world.results
        assert isinstance(result, NotReady)
        assert result.retry_after_s == 1.0
        assert world.plane.families.why_unavailable("f") == "no device that hosts it is available"
        await asyncio.sleep(BACK_S)
        assert world.plane.families.why_unavailable("f") is None
        world.submit()
        await asyncio.sleep(0.1)
        assert world.counted == {Outcome.REJECTED: 1, Outcome.SERVED: 1}

    played(lose_all, BOTH)


def test_a_variant_that_can_not_be_loaded_leaves_the_plan_in_force_and_is_planned_around() -> None:
    """300 qps are asked for, which only `fast` carries; while that can't be loaded, what there is goes on serving."""

    async def spoil(world: World) -> None:
        world.spoilt[VariantKey("f", "fast")] = EngineError("the file is cut off")
        await world.ask(300.0, 8.0)
        assert world.hosts == {"cpu0": {"good"}, "cpu1": {"good"}}
        breakers = world.fleet.broken_engines.breakers
        assert [breakers[device, VariantKey("f", "fast")].is_closed for device in BOTH] == [False, False]
        assert Outages(engines=frozenset({("cpu0", "f", "fast"), ("cpu1", "f", "fast")})) in world.asked
        before = world.counted[Outcome.SERVED]
        world.spoilt.clear()
        await world.ask(300.0, 20.0)
        assert "fast" in {variant for variants in world.hosts.values() for variant in variants}
        assert BreakerState.OPEN not in {breaker.state for breaker in world.fleet.broken_engines.breakers.values()}
        assert world.counted[Outcome.SERVED] > before + 3000
        await asyncio.sleep(1.0)

    played(spoil, BOTH)


def test_an_engine_that_a_plan_has_just_loaded_elsewhere_is_broken_only_where_it_fails() -> None:
    """Not yet active on `cpu1`, as the plan waits for `cpu2`; it fails the probation of `cpu0`."""

    async def fail(world: World) -> None:
        world.broken.add(("cpu0", VariantKey("f", "fast")))
        world.executor("cpu2").hangs = True
        world.executor("cpu0").die()
        deploying = asyncio.create_task(world.fleet.deploy(world.plan_of({"cpu1": "fast", "cpu2": "fast"})))
        await asyncio.sleep(BACK_S)
        assert world.hosts == {"cpu1": {"good"}, "cpu2": {"good"}}
        assert world.controller.topology.outages.engines == {("cpu0", "f", "fast")}
        deploying.cancel()
        await asyncio.wait([deploying])

    played(fail, {"cpu0": "fast", "cpu1": "good", "cpu2": "good"}, devices=("cpu0", "cpu1", "cpu2"), replans=False)


def test_an_engine_whose_build_was_cancelled_is_not_broken() -> None:
    async def cancel(world: World) -> None:
        world.spoilt[VariantKey("f", "fast")] = BuildCancelled("someone stopped it")
        with pytest.raises(BuildCancelled):
            await world.fleet.deploy(world.plan_of({"cpu0": "fast", "cpu1": "fast"}))
        assert world.fleet.broken_engines.breakers == {}
        world.spoilt.clear()
        await world.fleet.deploy(world.plan_of({"cpu0": "fast", "cpu1": "fast"}))
        assert world.hosts == {"cpu0": {"fast"}, "cpu1": {"fast"}}

    played(cancel, BOTH, replans=False)


def test_what_is_raised_before_the_switch_leaves_all_as_it_was() -> None:
    async def refuse(world: World) -> None:
        def not_wanted() -> None:
            raise LookupError("another plan is wanted")

        loaded, before = {device: world.fleet.loader.load_times_s(device) for device in BOTH}, world.hosts
        with pytest.raises(LookupError):
            await world.fleet.deploy(world.plan_of({"cpu0": "fast", "cpu1": "fast"}), not_wanted)
        assert world.hosts == before
        assert {device: world.fleet.loader.load_times_s(device) for device in BOTH} == loaded
        await world.fleet.deploy(world.plan_of({"cpu0": "fast", "cpu1": "fast"}))
        assert world.hosts == {"cpu0": {"fast"}, "cpu1": {"fast"}}

    played(refuse, BOTH, replans=False)


def test_a_device_lost_while_it_loads_is_no_reason_not_to_change_the_plan() -> None:
    async def lose(world: World) -> None:
        change = asyncio.create_task(world.fleet.deploy(world.plan_of({"cpu0": "fast", "cpu1": "fast"})))
        await asyncio.sleep(LOAD_S / 2)
        world.executor("cpu0").die()
        await change
        assert world.hosts == {"cpu1": {"fast"}}
        await asyncio.sleep(BACK_S + LOAD_S)
        assert world.hosts == {"cpu0": {"fast"}, "cpu1": {"fast"}}

    played(lose, BOTH, replans=False)


# --- devices without memory for two engines


def test_a_device_that_hangs_while_it_has_nothing_to_do_holds_a_change_of_plan_up_for_a_moment_only() -> None:
    """It is found out as it is to load something; until then all others stay on a plan that doesn't fit.

    The first plan is asked for once arrivals are known for a second; it changes just the device that hangs, and the
    next does without it.
    """

    async def hang(world: World) -> None:
        world.executor("cpu1").hangs = True
        asking = asyncio.create_task(world.ask(300.0, 12.0))
        first_s = ForecastRule().first_s + LOOK_S
        await asyncio.sleep(first_s + HURRIED_S + LIMIT_MULTIPLE * LOAD_S + 2 * (LOOK_S + SOLVE_S + LOAD_S))
        assert world.hosts["cpu0"] == {"fast"}
        assert world.fleet.breakers["cpu1"].opened == 1
        await asking
        await asyncio.sleep(BACK_S)
        assert world.state("cpu1") is BreakerState.CLOSED
        await asyncio.sleep(1.0)

    played(hang, {"cpu0": "good"})


def test_devices_without_memory_for_both_load_in_place_one_after_the_other() -> None:
    async def change(world: World) -> None:
        asking = asyncio.create_task(world.ask(60.0, 2.0))
        await asyncio.sleep(0.5)
        away: list[set[str]] = []
        changing = asyncio.create_task(world.fleet.deploy(world.plan_of({"cpu0": "fast", "cpu1": "fast"})))
        while not changing.done():
            away.append({device for device in BOTH if world.fleet.loader.loaded(device) == frozenset()})
            await asyncio.sleep(0.01)
        assert [one for one in away if one] != []
        assert max(map(len, away)) == 1
        assert {device for one in away for device in one} == set(BOTH)
        asked = await asking
        await asyncio.sleep(0.5)
        assert world.counted == {Outcome.SERVED: asked}
        assert world.hosts == {"cpu0": {"fast"}, "cpu1": {"fast"}}

    played(change, BOTH, memory_bytes=1000, replans=False)


def test_with_memory_for_both_a_device_serves_while_it_loads() -> None:
    async def change(world: World) -> None:
        changing = asyncio.create_task(world.fleet.deploy(world.plan_of({"cpu0": "fast", "cpu1": "fast"})))
        while not changing.done():
            assert all(world.fleet.loader.loaded(device) for device in BOTH)
            await asyncio.sleep(0.01)
        assert world.fleet.loader.loaded("cpu0") == {("f", "fast")}

    played(change, BOTH, memory_bytes=1100, replans=False)


def test_where_the_new_variant_does_not_come_up_the_old_plan_is_brought_back() -> None:
    async def change(world: World) -> None:
        world.spoilt[VariantKey("f", "fast")] = EngineError("the file is cut off")
        with pytest.raises(EngineError, match="cut off"):
            await world.fleet.deploy(world.plan_of({"cpu0": "fast", "cpu1": "fast"}))
        assert world.hosts == {"cpu0": {"good"}, "cpu1": {"good"}}
        assert world.controller.plan == world.first
        world.submit()
        await asyncio.sleep(0.1)
        assert world.counted == {Outcome.SERVED: 1}

    played(change, BOTH, memory_bytes=1000, replans=False)


def test_the_times_of_these_tests_hold() -> None:
    assert BACK_S > FIRST_RETRY_S + LOAD_S
    assert VARIANTS[0].load_s == LOAD_S > SOLVE_S


def test_devices_that_are_lost_with_their_host_have_no_line_each_but_one_when_all_are_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The link to the host has told that it is lost."""

    async def lose_host(world: World) -> None:
        caplog.set_level(logging.INFO, logger="proteus")
        caplog.clear()
        for device in HOST_A:
            world.executor(device).lose(HostLost("host a is lost: it ended", why="it ended"))
        assert world.fleet.lost_with_host == dict.fromkeys(HOST_A, "it ended")
        await asyncio.sleep(BACK_S + LOAD_S)
        assert [world.state(device) for device in HOST_A] == [BreakerState.CLOSED] * 2
        assert world.fleet.lost_with_host == {}
        assert [record.getMessage() for record in caplog.records if "loaded" not in record.getMessage()] == [
            "all devices of host a are back"
        ]
        world.executor("a/cpu0").lose(HostLost("a/cpu0 is another one now"))
        assert caplog.records[-1].levelname == "ERROR"
        await asyncio.sleep(2 * BACK_S + LOAD_S)  # the second pause is twice the first
        assert caplog.records[-1].getMessage() == "a/cpu0 is back"

    played(lose_host, dict.fromkeys(HOST_A, "good"), devices=HOST_A, replans=False)


def test_what_ran_on_a_lost_host_is_run_again_on_another_and_never_on_its_other_devices() -> None:
    """All devices of a host are lost before any request is taken again: else its second run would be lost, too."""
    devices = (*HOST_A, "b/cpu0", "b/cpu1")

    async def lose_host(world: World) -> None:
        world.submit(timeout_s=9.0)
        await asyncio.sleep(0.001)
        (busy,) = [device for device in devices if world.fleet.workers[device].is_busy]
        host = [device for device in devices if host_of(device) == host_of(busy)]
        for device in sorted(host, key=lambda device: device != busy):
            world.executor(device).lose(HostLost("the host is lost: it ended", why="it ended"))
        await asyncio.sleep(0.2)
        (answered,) = answers(world)
        assert answered not in host
        assert sum(len(world.executor(device).batches) for device in host) == 1
        assert world.counted == {Outcome.SERVED: 1}

    played(lose_host, dict.fromkeys(devices, "good"), devices=devices, replans=False)


def test_a_device_comes_back_though_what_it_hosted_is_gone_by_then() -> None:
    """A variant that is taken out of the catalog is forgotten once no device has it, as a lost one has nothing."""

    async def lose(world: World) -> None:
        world.shut.add("cpu0")
        world.executor("cpu0").die()
        await world.adaptation.apply(world.plan_of({"cpu1": "fast"}), "file", "the catalog has changed")
        gone = {VariantKey("f", "good")}
        world.fleet.loader.forget_models(gone)
        world.profiles.use([without_variants(profile, gone) for profile in world.profiles.alone.values()])
        world.shut.clear()
        await asyncio.sleep(2 * FIRST_RETRY_S + BACK_S)
        assert world.state("cpu0") is BreakerState.CLOSED

    played(lose, BOTH, replans=False)
