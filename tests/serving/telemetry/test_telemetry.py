"""What is kept of the last 15 minutes is what the counters counted meanwhile, and no more is kept, whatever comes."""

import asyncio
import json
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest
from builders import make_placement, make_plan, near
from jsonschema_rs import validator_for
from looping import loop_around
from one_device import World, run
from openapi_file import openapi

from proteus_cli.control.devices.breaker import Breaker
from proteus_cli.control.devices.breaker import BreakerEvent as Device
from proteus_cli.domain.attainment import Attainment
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import BadRequest
from proteus_cli.serving.adaptation.plan_journal import PlanChange
from proteus_cli.serving.lifecycle import LifecycleEvent as Life
from proteus_cli.serving.requests.counts import Histogram, quantile
from proteus_cli.serving.telemetry.recorder import SAMPLES
from proteus_cli.serving.telemetry.state import ExpectedQueries, ServerEvent, ServerEventKind
from proteus_cli.serving.telemetry.telemetry import EVERY_S, MAX_NUMBERS, Sources, Telemetry

NOW_S = 1_800_000_000.0
COLUMNS = 14  # of one family, of one device, and of two variants


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def watched(test: Callable[[World, Telemetry, Clock], Awaitable[None]], changes: Sequence[PlanChange] = ()) -> None:
    """Run a test with the telemetry of a world, on a clock of its own; ``changes`` are changes of plan."""

    async def in_world(world: World) -> None:
        clock = Clock()
        loop: Any = loop_around(world.plane)
        loop.changes = changes
        telemetry = Telemetry(Sources(world.plane, loop), clock, lambda: NOW_S + clock())
        await test(world, telemetry, clock)

    run(in_world)


def told(telemetry: Telemetry, since: str | None = None) -> Any:
    """What the feed is in JSON."""
    return json.loads(msgspec.json.encode(telemetry.history(since)))


async def answer(world: World, requests: int) -> None:
    """Have so many requests of one row answered, each alone."""
    for _ in range(requests):
        world.submit(1, 2)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        world.executor.release()


# --- samples


def test_a_sample_holds_the_rates_since_the_last_sample() -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        await answer(world, 3)
        clock.now_s = 0.5
        telemetry.sample()
        clock.now_s = 1.5
        telemetry.sample()
        feed = told(telemetry)
        assert feed["samples"]["at_s"] == [0.5, 1.5]
        family = feed["samples"]["families"]["f"]
        assert family["demand_qps"] == family["throughput_qps"] == family["goodput_qps"] == [6.0, 0.0]
        assert family["accuracy"] == [0.9, None]
        assert family["late_qps"] == family["dropped_qps"] == family["rejected_qps"] == family["failed_qps"] == [0, 0]
        assert feed["samples"]["devices"]["cpu0"]["mean_batch"] == [1.0, None]
        assert feed["flows"] == {
            "device": ["cpu0"], "family": ["f"], "variant": ["v"], "accuracy": [0.9], "planned_qps": [10],
            "deferred_qps": [0], "answered_qps": [2.0],
        }  # fmt: skip

    watched(test)


def test_answers_are_sampled_by_variant() -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        await answer(world, 3)
        clock.now_s = 0.5
        telemetry.sample()
        clock.now_s = 1.5
        telemetry.sample()
        history = telemetry.history()
        family = history.families["f"]
        assert family.variants == {"v": 0.9, "never": 0.5}
        assert history.samples.variants["f"] == {"v": [6.0, 0.0], "never": [0.0, 0.0]}

    watched(test)


def test_what_cascades_defer_is_a_part_of_what_was_answered_and_fallbacks_a_part_of_that() -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        await answer(world, 4)
        clock.now_s = 1.0
        telemetry.sample()
        family = telemetry.state().families["f"]
        assert (family.deferred, family.fallbacks) == (None, None), "there are no cascades"
        await answer(world, 4)
        counts = world.plane.counts.by_family["f"]
        counts.deferred, counts.fallbacks = 2, 1
        clock.now_s = 2.0
        telemetry.sample()
        family = telemetry.state().families["f"]
        assert (family.deferred, family.fallbacks) == (0.25, 0.5)
        assert told(telemetry)["families"]["f"]["deferred"] == 0.25

    watched(test)


def test_what_was_cut_short_is_a_part_of_what_was_answered_and_unknown_without_exits() -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        await answer(world, 4)
        clock.now_s = 1.0
        telemetry.sample()
        assert telemetry.state().families["f"].cut is None
        await answer(world, 4)
        world.plane.counts.by_family["f"].cut["v", 1] += 1
        world.plane.counts.by_family["f"].cut["v", 2] += 1
        clock.now_s = 2.0
        telemetry.sample()
        assert telemetry.state().families["f"].cut == told(telemetry)["families"]["f"]["cut"] == 0.25

    watched(test)


def test_a_lost_device_says_when_it_is_tried_again_and_which_variants_are_broken() -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        device, engine = world.fleet.breakers["cpu0"], Breaker(since_s=0.0)
        world.fleet.broken_engines.breakers["cpu0", VariantKey("f", "v")] = engine
        seen = []
        for second, event in enumerate([None, Device.DIED, Device.RETRIED], 1):
            clock.now_s = float(second)
            for breaker in (device, engine):
                if event is not None:
                    breaker.on(event, clock.now_s - 0.25, "it died")
            telemetry.sample()
            found = telemetry.history().devices["cpu0"]
            seen.append((found.retry_s, found.broken))
        assert seen == [(None, {}), (0.25, {"v": "it died"}), (None, {"v": "it died"})]

    watched(test)


def test_violations_are_sampled_by_outcome_and_as_a_fraction() -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        await answer(world, 2)
        world.submit(1, 2)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        world.executor.release(RuntimeError("broken"))
        in_flight = world.submit(1, 2)
        world.plane.admission.cancel(in_flight)
        clock.now_s = 1.0
        telemetry.sample()
        samples = telemetry.history().samples.families["f"]
        assert [samples[name] for name in ("failed_qps", "dropped_qps", "goodput_qps")] == [[1], [1], [2]]
        assert telemetry.state().families["f"].violations == near(0.5)

    watched(test)


def test_a_snapshot_is_the_mean_of_the_last_seconds() -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        await answer(world, 10)
        for second in range(1, 6):
            clock.now_s = float(second)
            telemetry.sample()
        now = telemetry.state().families["f"]
        assert (now.demand_qps, now.goodput_qps, now.relative_accuracy) == (2.0, 2.0, near(1.0))
        clock.now_s = 6.0
        telemetry.sample()
        now = telemetry.state().families["f"]
        assert (now.demand_qps, now.violations, now.accuracy) == (0.0, None, None)
        assert now.p99_s is not None  # ten seconds' worth

    watched(test)


def test_attainment_is_that_since_the_start_and_that_of_the_last_samples() -> None:
    """One of 4 requests fails in the first second; later 6 are answered, then nothing more is asked."""

    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        def attained() -> tuple[Attainment, Attainment]:
            now = telemetry.state().families["f"]
            return now.attainment, now.recent_attainment

        async def second(answers: int = 0, failures: int = 0) -> None:
            await answer(world, answers)
            world.plane.counts.by_family["f"].ended(Outcome.FAILED, requests=failures)
            clock.now_s += 1.0
            telemetry.sample()

        assert attained() == (Attainment.of(0, 0, 0.995),) * 2
        await second(answers=3, failures=1)
        assert attained() == (Attainment.of(4, 1, 0.995),) * 2
        await second(answers=6)
        for _ in range(SAMPLES - 2):
            await second()
        assert attained() == (Attainment.of(10, 1, 0.995),) * 2
        await second()
        assert attained() == (Attainment.of(10, 1, 0.995), Attainment.of(6, 0, 0.995))
        await second()
        assert attained() == (Attainment.of(10, 1, 0.995), Attainment.of(0, 0, 0.995))

    watched(test)


def test_the_target_is_that_of_the_plan_in_force_else_of_the_catalog() -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        await answer(world, 1)
        targets = []
        for plan in (world.plan, world.plan.with_attainment(0.9), world.plan):
            await world.fleet.deploy(plan)
            clock.now_s += 1.0
            telemetry.sample()
            now = telemetry.state().families["f"]
            targets.append((now.attainment.target, now.recent_attainment.target))
        assert targets == [(0.995, 0.995), (0.9, 0.9), (0.995, 0.995)]

    watched(test)


def test_the_status_tells_the_attainment_and_its_target() -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        await answer(world, 4)
        world.plane.counts.by_family["f"].ended(Outcome.LATE)
        found = telemetry.status()
        assert found.attainment_target == {"f": 0.995}
        assert found.families["f"].attainment == Attainment.of(5, 1, 0.995)
        assert found.families["f"].recent_attainment == Attainment.of(0, 0, 0.995)  # as of the last sample
        telemetry.sample()
        assert telemetry.status().families["f"].recent_attainment == Attainment.of(5, 1, 0.995)

    watched(test)


def test_status_and_page_tell_which_attainment_the_plan_in_force_expects() -> None:
    """A plan that was made for no forecast expects none."""

    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        assert telemetry.status().families["f"].expected_attainment is None
        await world.fleet.deploy(msgspec.structs.replace(world.plan, expected_attainment={"f": 0.97}))
        assert telemetry.status().families["f"].expected_attainment == 0.97
        assert telemetry.state().families["f"].expected_attainment == 0.97

    watched(test)


def test_status_counts_what_plans_expected_of_the_queries_that_they_were_for() -> None:
    """The plan is for 10 queries per second, and expects something of them for 20 s, after 5 s in which it did not."""

    async def test(world: World) -> None:
        telemetry = Telemetry(Sources(world.plane, loop_around(world.plane)), world.plane.clock)
        await asyncio.sleep(5.0)
        assert telemetry.status().families["f"].expected == ExpectedQueries(0.0, 0.0)
        await world.fleet.deploy(msgspec.structs.replace(world.plan, expected_attainment={"f": 0.97}))
        await asyncio.sleep(20.0)
        assert telemetry.status().families["f"].expected == ExpectedQueries(near(200.0), near(194.0))

    run(test)


def test_what_a_device_could_load_is_cold_until_it_is_loaded() -> None:
    """`never`, which is in no profile, is none."""

    async def test(world: World) -> None:
        telemetry = Telemetry(Sources(world.plane, loop_around(world.plane)), Clock())

        def told() -> tuple[Sequence[str], int, int]:
            device = telemetry.status().devices["cpu0"]
            return device.variants, device.cold, telemetry.history().devices["cpu0"].cold

        assert told() == (("v",), 2, 2)
        await world.fleet.deploy(make_plan(make_placement("cpu0", "f", "x", max_batch=8, rate_qps=10, capacity_qps=80)))
        assert told() == (("x",), 2, 2)

    run(test, cold=("y", "x"))


def test_the_load_of_a_device_is_the_fraction_of_time_in_which_batches_ran() -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        world.fleet.workers["cpu0"].busy_s += 0.5
        clock.now_s = 2.0
        telemetry.sample()
        assert telemetry.state().devices["cpu0"].load == near(0.25)
        assert telemetry.state().devices["cpu0"].variants == ("v",)

    watched(test)


def test_memory_is_bounded_and_the_oldest_samples_are_overwritten() -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        for second in range(1, SAMPLES + 51):
            clock.now_s = float(second)
            if second == SAMPLES:
                tracemalloc.start()
            telemetry.sample()
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept < 20_000
        at_s: list[float] = []
        cursor: str | None = None
        while True:
            feed = telemetry.history(cursor)
            at_s += feed.samples.at_s
            assert len(feed.samples.at_s) * COLUMNS <= MAX_NUMBERS
            cursor = feed.cursor
            if feed.complete:
                break
        assert at_s == [float(second) for second in range(51, SAMPLES + 51)]

    watched(test)


def test_the_sampler_takes_a_sample_every_second() -> None:
    async def in_world(world: World) -> None:
        telemetry = Telemetry(Sources(world.plane, loop_around(world.plane)), world.plane.clock)
        watching = asyncio.create_task(telemetry.run())
        await asyncio.sleep(EVERY_S * 1.3)
        watching.cancel()
        assert len(telemetry.history().samples.at_s) == 1

    run(in_world)


# --- the feed


def test_the_feed_holds_only_samples_after_the_cursor() -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        clock.now_s = 1.0
        telemetry.sample()
        first = telemetry.history()
        again = telemetry.history(first.cursor)
        assert (again.samples.at_s, again.cursor) == ([], first.cursor)
        clock.now_s = 2.0
        telemetry.sample()
        assert telemetry.history(first.cursor).samples.at_s == [2.0]

    watched(test)


def test_a_cursor_of_another_server_gets_all() -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        clock.now_s = 1.0
        telemetry.sample()
        assert telemetry.history("00000000-17").samples.at_s == [1.0]
        ahead = f"{telemetry.history().server}-99"
        assert telemetry.history(ahead).samples.at_s == []

    watched(test)


@pytest.mark.parametrize(
    "cursor", ["", "1", "-", "x-1", "0000000-1", "00000000-", "00000000-x", "00000000-1 ", "../x-1"]
)
def test_a_malformed_cursor_is_a_bad_request(cursor: str) -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        with pytest.raises(BadRequest, match="cursor"):
            telemetry.history(cursor)

    watched(test)


def test_the_feed_matches_the_openapi_document() -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        await answer(world, 1)
        for second in (1.0, 2.0):
            clock.now_s = second
            telemetry.sample()
        schemas = {**openapi(), "$ref": "#/components/schemas/History"}
        feed = told(telemetry)
        validator_for(schemas).validate(feed)
        del feed["cursor"]
        assert not validator_for(schemas).is_valid(feed)

    watched(test)


# --- events


def test_changes_of_plan_are_events_at_their_time_each_once() -> None:
    changes = [PlanChange(NOW_S - 5, "before", 0.1, 0.1, 1, what="cpu0: first")]

    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        clock.now_s = 10.0
        telemetry.sample()
        changes.extend(
            PlanChange(NOW_S + at_s, reason, 0.1, 0.1, 1, what=f"cpu0: {reason}")
            for at_s, reason in ((10.5, "up"), (10.75, "down"))
        )
        clock.now_s = 11.0
        telemetry.sample()
        clock.now_s = 12.0
        telemetry.sample()
        assert telemetry.state().events == [
            ServerEvent(0.0, ServerEventKind.PLAN, "cpu0: first", "before"),
            ServerEvent(10.5, ServerEventKind.PLAN, "cpu0: up", "up"),
            ServerEvent(10.75, ServerEventKind.PLAN, "cpu0: down", "down"),
        ]
        assert [event.reason for event in telemetry.history().events] == ["before", "up", "down"]

    watched(test, changes=changes)


def test_the_loss_and_the_return_of_a_device_are_events() -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        states = []
        breaker = world.fleet.breakers["cpu0"]
        for second, event in enumerate([None, Device.DIED, None, Device.RETRIED, Device.PASSED], 1):
            clock.now_s = float(second)
            if event is not None:
                breaker.on(event, clock.now_s, "its process died")
            telemetry.sample()
            states.append(telemetry.state().devices["cpu0"].breaker)
        assert states == ["closed", "open", "open", "half-open", "closed"]
        assert [(event.at_s, event.text, event.reason) for event in telemetry.state().events] == [
            (2.0, "cpu0 was lost", "its process died"),
            (5.0, "cpu0 is back", "after 3.0 s"),
        ]

    watched(test)


def test_events_are_sent_with_the_samples_that_noticed_them() -> None:
    changes = list[PlanChange]()

    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        clock.now_s = 1.0
        telemetry.sample()
        cursor = telemetry.history().cursor
        changes.append(PlanChange(NOW_S + 1.5, "more", 0.1, 0.1, 1, what="cpu0: a → b"))
        clock.now_s = 2.0
        telemetry.sample()
        feed = telemetry.history(cursor)
        assert feed.events == [ServerEvent(1.5, ServerEventKind.PLAN, "cpu0: a → b", "more")]
        assert telemetry.history(feed.cursor).events == []

    watched(test, changes=changes)


def test_the_state_of_a_server_that_drains_is_draining() -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        world.lifecycle.on(Life.STOPPED)
        assert telemetry.history().state == "draining"

    watched(test)


# --- quantiles


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([0, 0, 0], None),
        ([100, 0, 0], 0.99),
        ([0, 100, 0], 1.99),
        ([50, 50, 0], 1.98),
        ([99, 0, 1], 1.0),
        ([0, 0, 10], 2.0),  # beyond the last bound nothing is known but that
    ],
)
def test_a_quantile_lies_within_its_bucket(counts: list[int], expected: float | None) -> None:
    found = quantile((1.0, 2.0), counts, 0.99)
    assert found == (None if expected is None else near(expected))


def test_a_quantile_is_within_a_bucket_of_the_true_one() -> None:
    times_s = [number / 1000 for number in range(1, 1001)]
    histogram = Histogram(tuple(bound / 20 for bound in range(1, 21)))
    for time_s in times_s:
        histogram.add(time_s)
    assert quantile(histogram.bounds, histogram.counts, 0.99) == pytest.approx(0.99, abs=0.05)


# --- snapshots


def test_a_snapshot_that_is_shown_is_of_its_sample_whenever_it_is_read() -> None:
    async def test(world: World, telemetry: Telemetry, clock: Clock) -> None:
        now = telemetry.shown()
        telemetry.sample()
        world.fleet.breakers["cpu0"].on(Device.DIED, clock.now_s, "its process died")
        assert now().devices["cpu0"].breaker == "closed"
        telemetry.sample()
        assert now().devices["cpu0"].breaker == "open"

    watched(test)


def test_a_device_that_joined_after_the_last_sample_is_there_at_once() -> None:
    async def test(world: World, telemetry: Telemetry, _clock: Clock) -> None:
        telemetry.sample()
        world.profiles["cpu1"] = world.profiles["cpu0"]
        world.fleet.add_device("cpu1")
        assert list(telemetry.state().devices) == list(telemetry.history().devices) == ["cpu0", "cpu1"]
        assert telemetry.state().devices["cpu1"].load == 0.0

    watched(test)
