"""Versions are rolled out while catalogs, families and plans change, in virtual time: what was, serves again."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from builders import make_cascade
from following import GONE_S, PLANNED_S
from rolling import NEW, STEPPED_S, Rolled, rolled
from short_forms import parse_guard

from proteus_cli.control.devices.breaker import BreakerEvent
from proteus_cli.control.rollouts import version_rollout
from proteus_cli.control.rollouts.guard import Arm
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.errors import ArtefactError, Conflict
from proteus_cli.serving import lifecycle
from proteus_cli.serving.adaptation import rollout_steps, rollouts
from proteus_cli.serving.adaptation.catalog_reading import CatalogFiles, Measurements
from proteus_cli.serving.adaptation.rollout_requests import Candidate
from proteus_cli.serving.adaptation.rollout_steps import LONGEST_PAUSE_S, PUTTING_BACK, Running
from proteus_cli.serving.adaptation.rollouts import VersionRollouts
from proteus_cli.serving.lifecycle import supervised


async def begin(server: Rolled, family: str = "f") -> None:
    """The new version is a canary."""
    await asyncio.sleep(PLANNED_S)
    await server.start(family=family)
    await asyncio.sleep(2 * STEPPED_S)
    assert (server.at(family), server.hosted(family)) == (("canary", None), {"good", NEW})


async def check_old_alone(server: Rolled) -> None:
    """The old version serves, and nothing is left of the new one."""
    await asyncio.sleep(GONE_S + STEPPED_S)
    assert (server.hosted(), server.catalog.known) == ({"good"}, {"good", "fast"})
    assert (server.is_over(), server.catalog.models["good"]) == (True, "good-1")
    assert (server.world.plane.arms, server.beside) == ({}, set())


async def with_g(server: Rolled) -> None:
    """Family `g` is served, too, and a version of it is a canary."""
    server.catalog.retrain("good", "g-1", family="g")
    await server.live.read()
    await asyncio.sleep(2 * PLANNED_S)
    await begin(server, "g")


def test_clients_may_ask_for_a_version_while_it_is_rolled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(server: Rolled) -> None:
        told: list[bool] = []
        server.world.plane.families.watch(lambda: told.append(NEW in server.catalog.asked_versions))
        assert NEW not in server.catalog.asked_versions
        await begin(server)
        assert server.catalog.asked_versions[NEW] == server.catalog.asked_versions["22222222"] == {NEW}
        assert NEW in {each.variant for each in server.world.controller.families["f"].all_hosts}
        server.abort()
        await check_old_alone(server)
        assert NEW not in server.catalog.asked_versions
        assert told == [True, False]

    rolled(story, monkeypatch)


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.15])
def test_a_version_that_is_aborted_while_it_is_promoted_goes_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, after_s: float
) -> None:
    async def story(server: Rolled) -> None:
        await begin(server)
        server.promote()
        await asyncio.sleep(after_s)
        server.abort()
        with pytest.raises(Conflict, match=r"is being taken back$"):
            await server.start("good@33333333")
        assert (server.at()[1], server.rollouts.all["f"].note) == ("aborted", PUTTING_BACK)
        await check_old_alone(server)
        assert (server.at()[1], server.rollouts.all["f"].note) == ("aborted", "")

    rolled(story, monkeypatch)
    assert "can't go back" not in caplog.text


@pytest.mark.parametrize("by", ["person", "guard"])
def test_a_promotion_that_takes_long_is_ended_at_once_by_a_person_and_by_the_guard(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, by: str
) -> None:
    """The canaries are answered by the new version until then."""

    async def story(server: Rolled) -> None:
        await begin(server)
        known = server.live._known

        async def measured(files: CatalogFiles) -> Measurements:
            await asyncio.sleep(60.0)
            return await known(files)

        with monkeypatch.context() as patch:
            patch.setattr(server.live, "_measured", measured)
            server.promote()
            await asyncio.sleep(10.0)
            assert (server.at(), server.hosted()) == (("promoting", None), {"good", NEW})
            if by == "person":
                server.abort()
            else:
                for _ in range(500):
                    server.rollouts._of["f"].machine.guard.answered(Arm.NEW, None, is_failed=True)
            await asyncio.sleep(STEPPED_S)
        ending = "aborted" if by == "person" else "rolled back"
        assert (server.at(), server.is_over()) == (("ended", ending), True)
        assert server.hosted() == {"good"}
        await check_old_alone(server)

    rolled(story, monkeypatch)
    assert "can't go back" not in caplog.text


def test_what_fails_while_measuring_after_an_abort_is_waited_for_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(server: Rolled) -> None:
        await asyncio.sleep(PLANNED_S)

        async def measure(*_: Any) -> Mapping[str, VariantProfile]:
            try:
                await asyncio.sleep(60.0)
            finally:
                await asyncio.sleep(1.0)
                raise ArtefactError("Can't remove the copy.")

        monkeypatch.setattr(server, "measure", measure)
        await server.start()
        await asyncio.sleep(STEPPED_S)
        server.abort()
        await asyncio.sleep(STEPPED_S)
        assert (server.at(), server.is_over()) == (("ended", "aborted"), True)
        await check_old_alone(server)

    rolled(story, monkeypatch)
    assert caplog.text.count(f"measuring {NEW} failed, after its roll-out has ended: Can't remove the copy.") == 1


def test_after_an_unexpected_error_the_new_version_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error ends what ran in the background, too; then the task of all roll-outs starts again."""
    run, look = VersionRollouts.run, VersionRollouts._look

    def look_wrong(rollouts: VersionRollouts, running: Running) -> None:
        look(rollouts, running)
        if running.step is not None:
            monkeypatch.setattr(VersionRollouts, "_look", look)
            raise RuntimeError("a bug")

    monkeypatch.setattr(VersionRollouts, "run", lambda rollouts: supervised(run, rollouts))
    monkeypatch.setattr(VersionRollouts, "_look", look_wrong)

    async def story(server: Rolled) -> None:
        await asyncio.sleep(PLANNED_S)
        await server.start()
        await asyncio.sleep(lifecycle.RETRY_S + 2 * STEPPED_S)
        assert (server.at(), server.hosted()) == (("canary", None), {"good", NEW})

    rolled(story, monkeypatch)
    assert VersionRollouts._look is look, "there was an error"


def test_a_shadow_that_goes_on_undecided_is_told_by_the_reason_of_the_plan_and_the_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(version_rollout, "LONGEST_SHADOW_S", 3.0)

    async def story(server: Rolled) -> None:
        reasons: list[str] = []
        journal = SimpleNamespace(began=lambda _plan, change, *_: reasons.append(change.reason))
        monkeypatch.setattr(server.world.adaptation, "_journal", journal)
        await asyncio.sleep(PLANNED_S)
        await server.start(shadow=0.0001, guard=parse_guard("accuracy >= old - 0.005"), auto=True)
        await asyncio.sleep(3.0 + 2 * STEPPED_S)
        assert server.at() == ("canary", None)
        note = "the shadow is undecided after 0 queries: accuracy >= old - 0.005 (nothing is known of it)"
        assert server.rollouts.all["f"].note == note
        assert f"{NEW} answers 50.0 % of f in place of good; {note}" in reasons
        server.abort()
        await check_old_alone(server)

    rolled(story, monkeypatch)


def test_a_device_that_an_earlier_rollout_has_cost_does_not_end_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(server: Rolled) -> None:
        await begin(server)
        fleet = server.world.fleet
        server.world.shut.add("cpu1")
        fleet._batch_failed("cpu1", BreakerEvent.BROKE, "it fails on all inputs", VariantKey("f", NEW))
        await asyncio.sleep(STEPPED_S)
        assert (server.at(), server.is_over()) == (("ended", "failed"), True)
        await server.start()
        await asyncio.sleep(2 * STEPPED_S)
        assert (server.at(), list(fleet.away)) == (("canary", None), ["cpu1"])

    rolled(story, monkeypatch)


def test_what_is_read_of_the_same_catalog_leaves_a_rollout_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(server: Rolled) -> None:
        await begin(server)
        server.catalog.retrain("fast", "fast-1", accuracy=0.71)
        assert not await server.live.read()
        await asyncio.sleep(PLANNED_S)
        assert (server.at(), server.hosted()) == (("canary", None), {"good", NEW})
        server.abort()
        await check_old_alone(server)

    rolled(story, monkeypatch)


def test_where_nothing_replans_a_version_goes_though_the_catalog_names_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(server: Rolled) -> None:
        await begin(server)
        server.catalog.retrain("good", "33333333")
        await server.live.read()
        await asyncio.sleep(STEPPED_S)
        assert (server.is_over(), server.hosted()) == (True, {"good"})

    rolled(story, monkeypatch, replans=False)


def test_a_version_goes_with_the_plan_that_was_coming_into_force_when_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(server: Rolled) -> None:
        world = server.world
        await begin(server)
        await world.adaptation.apply(world.plan_of({"cpu0": "fast", "cpu1": "fast"}), "request", "by a client")
        assert server.hosted() == {"fast"}
        coming = asyncio.create_task(world.adaptation.apply(world.first, "request", "by a client"))
        await asyncio.sleep(0.05)
        server.abort()
        await coming
        await asyncio.sleep(STEPPED_S)
        assert server.hosted() == {"good"}

    rolled(story, monkeypatch)


@pytest.mark.parametrize("auto", [True, False])
def test_where_plans_leave_a_version_out_its_roll_out_ends_by_itself_if_it_goes_on_by_itself(
    monkeypatch: pytest.MonkeyPatch, *, auto: bool
) -> None:
    """The new version stays loaded, as a standby. By labels, plans have another variant answer."""

    async def story(server: Rolled) -> None:
        world = server.world
        await asyncio.sleep(PLANNED_S)
        await server.start(auto=auto, canary=[0.02])
        await asyncio.sleep(2 * STEPPED_S)
        assert (server.at(), server.hosted()) == (("canary", None), {"good", NEW})
        world.profiles.use_accuracies({VariantKey("f", "good"): 0.3})
        await world.adaptation.apply(world.plan_of({"cpu0": "fast", "cpu1": "fast"}), "request", "by a client")
        assert any(VariantKey("f", NEW) in world.fleet.loader.loaded(device) for device in world.profiles)
        await asyncio.sleep(rollout_steps.LEFT_OUT_S - STEPPED_S)
        assert server.at() == ("canary", None)
        await asyncio.sleep(2 * STEPPED_S)
        if not auto:
            assert server.at() == ("canary", None)
            return
        assert (server.at(), server.is_over()) == (("ended", "failed"), True)
        reason = server.rollouts.all["f"].reason
        assert reason == f"plans have left out good and {NEW} for 300 s (accuracy by labels: good has 30.0 %)"

    rolled(story, monkeypatch, replans=False, resident_bytes=5000)


@pytest.mark.parametrize("is_full", [False, True])
def test_a_family_that_is_unloaded_stays_so_when_its_version_goes(
    monkeypatch: pytest.MonkeyPatch, *, is_full: bool
) -> None:
    async def story(server: Rolled) -> None:
        await with_g(server)
        if is_full:
            server.promote("g")
            await asyncio.sleep(STEPPED_S)
            assert server.at("g") == ("full", None)
        server.world.plane.families.by_name["g"].why_out = "unloaded"
        await asyncio.sleep(2 * STEPPED_S)
        assert (server.at("g"), server.is_over("g")) == (("ended", "failed"), True)
        assert server.catalog.families["g"] == {"good": "g-1"}
        assert server.world.plane.families.by_name["g"].why_out == "unloaded"

    rolled(story, monkeypatch)


def test_a_family_that_is_removed_can_come_back_and_be_rolled_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "MAX_GONE", 0)

    async def story(server: Rolled) -> None:
        await with_g(server)
        server.promote("g")
        await asyncio.sleep(STEPPED_S)
        del server.catalog.families["g"]
        await server.live.read()
        await asyncio.sleep(GONE_S + 2 * STEPPED_S)
        assert (server.is_over("g"), "g" in server.world.plane.families.by_name) == (True, False)
        assert (server.world.plane.arms, server.beside) == ({}, set())
        assert server.at("g") == ("ended", "failed")
        await server.start()
        assert "g" not in server.rollouts.all  # of families that are gone, only the last few are told of
        server.abort()
        await with_g(server)

    rolled(story, monkeypatch)


def test_what_another_one_made_of_the_catalog_in_the_rollback_window_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(server: Rolled) -> None:
        await begin(server)
        server.promote()
        await asyncio.sleep(STEPPED_S)
        server.catalog.retrain("good", "33333333")
        server.abort()
        await asyncio.sleep(GONE_S + STEPPED_S)
        assert (server.is_over(), server.hosted()) == (True, {"good@33333333"})
        assert server.catalog.known == {"good@33333333", "fast"}

    rolled(story, monkeypatch)


@pytest.mark.parametrize("is_full", [False, True], ids=["canary", "full"])
def test_a_new_version_that_breaks_is_planned_around_with_the_old_one(
    monkeypatch: pytest.MonkeyPatch, *, is_full: bool
) -> None:
    async def story(server: Rolled) -> None:
        await begin(server)
        if is_full:
            server.promote()
            await asyncio.sleep(STEPPED_S)
            assert server.at() == ("full", None)
        server.world.broken = {("cpu0", VariantKey("f", NEW))}
        seen = set[str]()
        for _ in range(200):
            await asyncio.sleep(0.05)
            seen |= server.hosted()
        assert seen <= {"good", NEW}
        assert (server.is_over(), server.at(), server.hosted()) == (True, ("ended", "failed"), {"good"})
        assert server.rollouts.all["f"].reason == f"cpu0 was given up: {NEW}: it fails on anything"

    rolled(story, monkeypatch)


def plan_with_cascade(server: Rolled) -> Plan:
    """Queries that `fast` is not sure of, which are all here, go to `good`."""
    plan = server.world.plan_of({"cpu0": "fast", "cpu1": "good"})
    first, second = plan.placements
    second = msgspec.structs.replace(second, rate_qps=0.0, share=0.0, deferred_qps=60.0)
    cascade = make_cascade("f", "fast", "good", rate_qps=30.0, deferred_frac=0.9)
    return msgspec.structs.replace(plan, placements=(first, second), cascades=(cascade,))


def test_a_version_is_rolled_out_where_the_plan_has_a_cascade_of_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next plan does without: what waits for a second stage then is answered all the same."""

    async def story(server: Rolled) -> None:
        controller = server.world.controller
        await server.world.adaptation.apply(plan_with_cascade(server), "request", "by a client")
        await asyncio.sleep(PLANNED_S)
        assert controller.plan.cascades
        assert server.world.plane.counts.by_family["f"].deferred
        await server.start()
        await asyncio.sleep(STEPPED_S)
        assert (server.at(), controller.plan.cascades != ()) == (("canary", None), True)
        server.world.adaptation._controller.replanning.hold(0.0)  # a person's plan is left alone for a while
        await asyncio.sleep(2 * STEPPED_S)
        assert (controller.plan.cascades, NEW in server.hosted()) == ((), True)
        await server.world.adaptation.apply(plan_with_cascade(server), "request", "by a client")
        assert NEW not in server.hosted()  # until that plan goes
        server.abort()
        await asyncio.sleep(STEPPED_S)
        assert (server.is_over(), server.hosted()) == (True, {"fast", "good"})

    rolled(story, monkeypatch, qps=20.0)


def test_a_family_with_a_policy_has_its_new_version_beside_the_old_one_only_where_it_keeps_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rollout_steps, "NOWHERE_S", 1.0)

    async def story(server: Rolled) -> None:
        await asyncio.sleep(PLANNED_S)
        plan = server.world.controller.plan
        rules = msgspec.structs.replace(plan.rules, min_accuracy={"f": 0.95})
        await server.world.adaptation.apply(msgspec.structs.replace(plan, rules=rules), "request", "by a client")
        await server.start()
        await asyncio.sleep(3 * STEPPED_S)
        reason = server.rollouts.all["f"].reason
        assert server.at() == ("ended", "failed")
        assert "cpu0: its accuracy, 0.9, is below 0.95, which the family must have" in reason
        assert server.hosted() == {"good"}

    rolled(story, monkeypatch, qps=10.0)


def test_what_ends_at_once_with_a_call_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(server: Rolled) -> None:
        await begin(server)
        ending = server.abort().ending  # the server stops in the same turn of the loop, which `rolled` waits for
        assert ending == "aborted"

    rolled(story, monkeypatch)


def test_what_cannot_be_undone_is_tried_again_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk is full for a minute: some 7 tries, and one line in the log.

    The old version serves meanwhile, though the planner has the new one still, and is asked for plans.
    """
    tries = 0

    async def story(server: Rolled) -> None:
        nonlocal tries
        await begin(server)
        server.promote()
        await asyncio.sleep(STEPPED_S)
        assert server.at() == ("full", None)

        def cannot(_: Candidate) -> bool:
            nonlocal tries
            tries += 1
            raise ArtefactError("Can't write: no space.")

        with monkeypatch.context() as patch:
            patch.setattr(server, "write_back", cannot)
            server.abort()
            for _ in range(65):
                await asyncio.sleep(1.0)
                assert (server.is_over(), server.hosted()) == (False, {"good"})
            assert server.rollouts.all["f"].note == f"{PUTTING_BACK}: Can't write: no space."
        await asyncio.sleep(LONGEST_PAUSE_S)
        await check_old_alone(server)

    rolled(story, monkeypatch, qps=2.0)
    assert 5 <= tries <= 8
    assert caplog.text.count("can't go back") == 1
