"""Families come and go while a server serves, in virtual time; nobody else notices."""

import asyncio
from math import isfinite
from typing import TYPE_CHECKING

import pytest
from following import GONE_S, PLANNED_S, Followed, followed
from short_forms import parse_condition

from proteus_cli.domain.request import Outcome
from proteus_cli.errors import ArtefactError, BadRequest, Conflict, NotReady, Unprocessable
from proteus_cli.serving.adaptation.catalog_reading import CatalogFiles, Measurements
from proteus_cli.serving.adaptation.conditions import KeptConditions, LiveConditions
from proteus_cli.serving.adaptation.live_catalog import PATIENCE_S
from proteus_cli.serving.oip.repository import ModelRepository
from proteus_cli.serving.telemetry.telemetry import Sources, Telemetry

if TYPE_CHECKING:
    from proteus_cli.control.controller import Controller

OUT = "NotReady: `g` is being taken out of service"


async def with_g(catalog: Followed) -> None:
    """Family `g` is served, too."""
    catalog.retrain("large", "g-1", family="g")
    await catalog.live.read()
    await asyncio.sleep(2 * PLANNED_S)
    assert catalog.hosts("g") == {"large"}


async def ask_g(catalog: Followed, times: int) -> None:
    for _ in range(times):
        catalog.submit("g")
        await asyncio.sleep(0.05)


def everywhere(catalog: Followed) -> dict[str, bool]:
    """Who knows family `g`."""
    world, controller = catalog.world, catalog.world.controller
    return {
        "offered": "g" in world.plane.families.by_name,
        "counted": "g" in world.plane.counts.by_family,
        "signatures": "g" in world.signatures,
        "demand": "g" in controller.demand.slo_s,
        "queues": "g" in controller.families,
        "attainment": "g" in controller.attainment,
        "slowdowns": "g" in controller.replanning._slowdowns,
        "slack": "g" in controller.replanning._slack_s,
        "loader": "g" in world.fleet.loader._signatures,
        "models": any(key[0] == "g" for key in world.fleet.loader.models),
        "hardware": any(key[0] == "g" for key in catalog.hardware_models),
        "profiles": any(each.family == "g" for each in world.profiles["cpu0"].variants),
    }


def test_a_new_family_is_planned_with_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        with pytest.raises(KeyError):
            catalog.hosts("g")
        await with_g(catalog)
        await ask_g(catalog, 20)
        await asyncio.sleep(PLANNED_S)
        assert catalog.ended() == {"Answered": 20}
        assert set(everywhere(catalog).values()) == {True}
        assert catalog.world.plane.families.why_unavailable("g") is None

    followed(story, monkeypatch)


def test_a_family_that_is_removed_answers_what_it_has_admitted_and_then_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(catalog: Followed) -> None:
        await with_g(catalog)
        for _ in range(8):
            catalog.submit("g")
        del catalog.families["g"]
        await catalog.live.read()
        await asyncio.sleep(0)
        assert (catalog.refusal("g"), catalog.live.status().leaving) == (OUT, ["g"])
        await asyncio.sleep(PLANNED_S)
        assert (catalog.ended(), catalog.refusal("g"), catalog.hosts("g")) == ({"Answered": 8}, OUT, set())
        assert catalog.live.status().leaving == ["g"]
        await asyncio.sleep(GONE_S)
        assert set(everywhere(catalog).values()) == {False}
        assert catalog.refusal("g") == "UnknownModel: no model `g`"
        assert catalog.live.status().leaving == []

    followed(story, monkeypatch)


def test_while_its_requests_wait_a_family_that_is_to_leave_is_planned_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device is lost meanwhile, so that another plan is made: it has the family, whose request is answered."""

    async def story(catalog: Followed) -> None:
        world = catalog.world
        await with_g(catalog)
        hosts = {host.device for host in world.controller.families["g"].hosts}
        for device in hosts:
            world.executor(device).hangs = True
        catalog.submit("g", timeout_s=5.0)
        await asyncio.sleep(0.01)
        del catalog.families["g"]
        await catalog.live.read()
        for device in hosts:
            world.executor(device).die()
        await asyncio.sleep(4.0)
        assert (catalog.ended(), catalog.refusal("g")) == ({"Answered": 1}, OUT)
        await asyncio.sleep(GONE_S + 3 * PLANNED_S)
        assert set(everywhere(catalog).values()) == {False}

    followed(story, monkeypatch, devices=("cpu0", "cpu1", "cpu2"))


def test_requests_that_nobody_can_answer_keep_a_family_no_longer_than_they_may_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(catalog: Followed) -> None:
        world = catalog.world
        world.plane.admission._max_timeout_s = 3.0
        await with_g(catalog)
        (device,) = {host.device for host in world.controller.families["g"].hosts}
        world.shut.add(device)
        world.executor(device).hangs = True
        catalog.submit("g", timeout_s=2.0)
        del catalog.families["g"]
        await catalog.live.read()
        await asyncio.sleep(GONE_S + 30.0)
        assert sum(catalog.ended().values()) == 1
        assert set(everywhere(catalog).values()) == {False}

    followed(story, monkeypatch)


@pytest.mark.parametrize("after_s", [0.0, 0.01, PLANNED_S, GONE_S / 2, 2 * GONE_S])
def test_a_family_that_comes_back_is_served_again(after_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its requests end, while it leaves, and once it is gone."""

    async def story(catalog: Followed) -> None:
        await with_g(catalog)
        catalog.submit("g")
        models = catalog.families.pop("g")
        await catalog.live.read()
        await asyncio.sleep(after_s)
        catalog.families["g"] = models
        await catalog.live.read()
        await asyncio.sleep(2 * PLANNED_S)
        assert (catalog.live.status().state, catalog.hosts("g")) == ("served", {"large"})
        await ask_g(catalog, 5)
        await asyncio.sleep(2 * GONE_S)
        assert catalog.ended() == {"Answered": 6}
        assert set(everywhere(catalog).values()) == {True}

    followed(story, monkeypatch)


def test_a_reading_that_comes_while_another_is_followed_leaves_out_the_same_families(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(catalog: Followed) -> None:
        await with_g(catalog)
        for _ in range(4):
            catalog.submit("g")
        del catalog.families["g"]
        refusals = []
        for _ in range(3):
            await catalog.live.read()
            await asyncio.sleep(0)
            refusals.append(catalog.refusal("g"))
        assert refusals == [OUT] * 3
        await asyncio.sleep(GONE_S + PLANNED_S)
        assert (catalog.ended(), everywhere(catalog)["offered"]) == ({"Answered": 4}, False)

    followed(story, monkeypatch)


def test_a_reading_that_fails_leaves_a_family_in_service(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        await with_g(catalog)
        catalog.families.pop("g")
        catalog.retrain("good", "22222222", is_profiled=False)
        await catalog.live.read()
        await asyncio.sleep(PLANNED_S)
        assert (catalog.live.status().state, catalog.refusal("g")) == ("failed", None)

    followed(story, monkeypatch)


def test_a_new_family_that_no_device_was_measured_with_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        catalog.retrain("large", "g-1", family="g", is_profiled=False)
        await catalog.live.read()
        await asyncio.sleep(PLANNED_S)
        status = catalog.live.status()
        assert (status.state, status.problem) == ("failed", "No device has a profile of `g/large` as it is now.")
        assert set(everywhere(catalog).values()) == {False}

    followed(story, monkeypatch)


def test_the_last_family_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        catalog.families.clear()
        with pytest.raises((ArtefactError, ValueError), match=r"at least one \[\[family\]\]"):
            await catalog.live.read()
        catalog.families["f"] = catalog.models
        assert not await catalog.live.read()
        await asyncio.sleep(PLANNED_S)

    followed(story, monkeypatch)


def test_families_that_swap_their_names_swap_their_models(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        await with_g(catalog)
        catalog.families["f"], catalog.families["g"] = catalog.families["g"], catalog.families["f"]
        for family, variant in (("f", "large"), ("g", "good"), ("g", "fast")):
            catalog.retrain(variant, catalog.families[family][variant], family=family)
        await catalog.live.read()
        await asyncio.sleep(2 * PLANNED_S)
        assert (catalog.hosts("f"), catalog.hosts("g") <= {"good", "fast"}) == ({"large"}, True)
        await ask_g(catalog, 3)
        await asyncio.sleep(GONE_S + PLANNED_S)
        assert catalog.ended() == {"Answered": 3}
        assert set(catalog.world.fleet.loader.models) == {("f", "large"), ("g", "good"), ("g", "fast")}
        assert catalog.hardware_models == set(catalog.world.fleet.loader.models)

    followed(story, monkeypatch)


def test_a_family_is_removed_while_a_plan_with_it_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        catalog.retrain("large", "g-1", family="g")
        await catalog.live.read()
        while not catalog.world.asked:  # a plan with `g` is solved now
            await asyncio.sleep(0.01)
        del catalog.families["g"]
        await catalog.live.read()
        await asyncio.sleep(GONE_S + 2 * PLANNED_S)
        assert set(everywhere(catalog).values()) == {False}

    followed(story, monkeypatch)


def test_settings_of_a_family_change_with_the_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        world = catalog.world
        catalog.settings["f"] = {"slo": "400ms", "attainment": 0.9}
        assert await catalog.live.read()
        await asyncio.sleep(2 * PLANNED_S)
        served = world.plane.families.by_name["f"]
        assert (served.slo_s, served.attainment, world.controller.demand.slo_s) == (0.4, 0.9, {"f": 0.4})
        assert {host.attainment for host in world.controller.families["f"].hosts} == {0.9}
        assert world.plane.counts.by_family["f"].latency.bounds[-1] == pytest.approx(5 * 0.4)

    followed(story, monkeypatch)


def test_what_tells_confidence_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        catalog.settings["f"] = {"confidence": "output:y"}
        with pytest.raises(Conflict, match="stays as it is while the family is served"):
            await catalog.live.read()
        await asyncio.sleep(PLANNED_S)

    followed(story, monkeypatch)


def test_many_families_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        for number in range(5):
            name = f"g{number}"
            catalog.retrain("large", "g-1", family=name)
            await catalog.live.read()
            await asyncio.sleep(PLANNED_S)
            del catalog.families[name]
            await catalog.live.read()
            await asyncio.sleep(GONE_S + PLANNED_S)
        world = catalog.world
        assert list(world.plane.families.by_name) == list(world.plane.counts.by_family) == ["f"]
        assert list(world.controller.families) == ["f"]
        assert catalog.known == {"good", "fast"}

    followed(story, monkeypatch)


def test_no_family_is_left_out_that_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        await with_g(catalog)
        controller: Controller = catalog.world.controller
        with pytest.raises(ValueError, match="g is hosted"):
            controller.use_families({"f": 0.2}, {}, ["f"])
        assert "g" in controller.demand.slo_s

    followed(story, monkeypatch)


def test_samples_follow_the_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was counted of a family that has gone counts for none that comes later by its name."""

    async def story(catalog: Followed) -> None:
        world = catalog.world
        telemetry = Telemetry(Sources(world.plane, world.adaptation), world.loop.time)

        async def sampled(seconds: int) -> None:
            for _ in range(seconds):
                await asyncio.sleep(1.0)
                telemetry.sample()

        await sampled(2)
        await with_g(catalog)
        assert set(telemetry.state().families) == {"f", "g"}
        await ask_g(catalog, 20)
        await sampled(2)
        assert telemetry.state().families["g"].recent_attainment.reached == 1.0
        models = catalog.families.pop("g")
        await catalog.live.read()
        await asyncio.sleep(GONE_S + PLANNED_S)
        catalog.families["g"] = models
        await catalog.live.read()
        await asyncio.sleep(2 * PLANNED_S)
        assert telemetry.state().families["g"].recent_attainment.reached is None
        await sampled(2)
        history = telemetry.history()
        assert set(history.families) == {"f", "g"}
        assert history.samples.families["g"]["goodput_qps"][-1] == 0.0
        assert all(qps is not None and qps > 40 for qps in history.samples.families["f"]["goodput_qps"][1:])

    followed(story, monkeypatch)


def test_conditions_of_a_family_that_leaves_are_refused_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        world = catalog.world
        await with_g(catalog)
        conditions = LiveConditions(world.plane, world.adaptation, catalog.served, KeptConditions(None))
        world.controller.dispatch.stop_when["g"] = parse_condition("exit >= 2")
        assert conditions.of("g").stop_when == parse_condition("exit >= 2")
        del catalog.families["g"]
        await catalog.live.read()
        await asyncio.sleep(PLANNED_S)
        assert catalog.followed == [("f", "g"), ("f",)]
        with pytest.raises(NotReady, match="`g` is being taken out of service"):
            conditions.of("g")
        with pytest.raises(NotReady, match="`g` is being taken out of service"):
            await conditions.from_client("g", b'{"stop_when": null}')
        await asyncio.sleep(GONE_S)
        assert world.controller.dispatch.stop_when == {}

    followed(story, monkeypatch)


def test_what_was_counted_of_a_family_that_is_gone_counts_in_the_sum_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        counts = catalog.world.plane.counts
        await with_g(catalog)
        await ask_g(catalog, 7)
        before = counts.tallies()["g"]
        models = catalog.families.pop("g")
        await catalog.live.read()
        await asyncio.sleep(GONE_S + PLANNED_S)
        of_f = counts.by_family["f"].of_outcome(Outcome.SERVED)
        assert counts.of_outcome(Outcome.SERVED) == of_f + 7
        catalog.families["g"] = models
        await catalog.live.read()
        await asyncio.sleep(2 * PLANNED_S)
        await ask_g(catalog, 2)
        assert sum(counts.tallies()["g"].since(before).outcomes) == 2

    followed(story, monkeypatch)


# --- the repository of the protocol


def repository(catalog: Followed) -> ModelRepository:
    plane = catalog.world.plane
    return ModelRepository(
        plane.families, plane.controller, plane.lifecycle, plane.counts, plane.clock, platform="emulated",
        profiles=catalog.world.profiles, refresh=catalog.live.refresh,
    )  # fmt: skip


def test_a_family_that_is_new_in_the_catalog_is_loaded_and_one_that_is_gone_there_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(catalog: Followed) -> None:
        kept = repository(catalog)
        with pytest.raises(BadRequest, match="failed to load 'g', no such model in the repository; there are: f"):
            await kept.load_anew("g")
        catalog.retrain("large", "g-1", family="g")
        await kept.load_anew("g")
        await asyncio.sleep(2 * PLANNED_S)
        assert [(entry.name, entry.state) for entry in kept.index()] == [("f", "READY"), ("g", "READY")]
        await ask_g(catalog, 3)
        del catalog.families["g"]
        with pytest.raises(BadRequest, match=r"failed to load 'g', .*; there are: f$"):
            await kept.load_anew("g")
        assert [entry.reason for entry in kept.index()] == ["", "being taken out of service"]
        with pytest.raises(BadRequest, match="failed to unload 'g'"):
            kept.unload("g")
        await asyncio.sleep(GONE_S + PLANNED_S)
        assert [entry.name for entry in kept.index()] == ["f"]

    followed(story, monkeypatch)


def test_what_is_unloaded_stays_so_until_it_is_loaded_or_the_catalog_changes_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(catalog: Followed) -> None:
        kept = repository(catalog)
        await with_g(catalog)
        kept.unload("g")
        catalog.retrain("good", "22222222")
        await catalog.live.read()
        await asyncio.sleep(2 * PLANNED_S)
        assert catalog.refusal("g") == "NotReady: `g` is unloaded"
        await kept.load_anew("f")
        assert catalog.refusal("g") == "NotReady: `g` is unloaded"
        catalog.settings["g"] = {"slo": "300ms"}
        await catalog.live.read()
        await asyncio.sleep(2 * PLANNED_S)
        assert catalog.refusal("g") is None
        kept.unload("g")
        await kept.load_anew("g")
        assert catalog.refusal("g") is None

    followed(story, monkeypatch)


def test_a_catalog_that_cannot_be_followed_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        kept = repository(catalog)
        await with_g(catalog)
        kept.unload("g")
        catalog.retrain("other", "h-1", family="h", is_profiled=False)
        for load in (kept.load_anew("g"), asyncio.gather(kept.load_anew("g"), kept.load_anew("g"))):
            with pytest.raises(Unprocessable, match="No device has a profile of `h/other`"):
                await load
        assert catalog.refusal("g") == "NotReady: `g` is unloaded"
        del catalog.families["h"]
        await asyncio.gather(kept.load_anew("g"), kept.load_anew("g"))
        assert catalog.refusal("g") is None

    followed(story, monkeypatch)


def test_a_client_does_not_wait_for_ever_until_what_is_new_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """To ask again does not begin anew; to have the catalog read by other means does."""

    async def story(catalog: Followed) -> None:
        kept, known, begun = repository(catalog), catalog.live._known, list[float]()

        async def measured(files: CatalogFiles) -> Measurements:
            begun.append(catalog.world.loop.time())
            await asyncio.sleep(PATIENCE_S + 20.0)
            return await known(files)

        monkeypatch.setattr(catalog.live, "_measured", measured)
        catalog.retrain("large", "g-1", family="g")
        with pytest.raises(NotReady, match="is being measured"):
            await kept.load_anew("g")
        await kept.load_anew("g")
        await asyncio.sleep(2 * PLANNED_S)
        assert (len(begun), catalog.hosts("g")) == (1, {"large"})
        catalog.retrain("large", "g-2", family="g")
        for _ in range(2):
            await catalog.live.read()
            await asyncio.sleep(1.0)
        assert len(begun) == 3

    followed(story, monkeypatch)


def test_what_comes_to_its_end_while_the_catalog_is_read_again_is_compared_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(catalog: Followed) -> None:
        catalog.retrain("large", "g-1", family="g")
        await catalog.live.read()
        del catalog.families["g"]
        compared = catalog.live._compared

        async def late(rolled_out: frozenset[str]) -> object:
            found = await compared(rolled_out)
            await asyncio.sleep(PLANNED_S)  # `g` is served by then
            return found

        monkeypatch.setattr(catalog.live, "_compared", late)
        await catalog.live.read()
        await asyncio.sleep(GONE_S + 3 * PLANNED_S)
        assert set(everywhere(catalog).values()) == {False}

    followed(story, monkeypatch)


def test_no_rate_of_a_family_that_comes_back_is_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        telemetry = Telemetry(Sources(catalog.world.plane, catalog.world.adaptation), asyncio.get_running_loop().time)
        await with_g(catalog)
        await ask_g(catalog, 50)
        telemetry.sample()
        del catalog.families["g"]
        await catalog.live.read()
        await asyncio.sleep(GONE_S)
        assert not any(everywhere(catalog).values())
        await with_g(catalog)
        await ask_g(catalog, 5)
        telemetry.sample()
        history = telemetry.history()
        rates = [qps for each in history.samples.variants["g"].values() for qps in each if qps is not None]
        assert min(*filter(isfinite, rates), *history.flows.answered_qps) >= 0.0

    followed(story, monkeypatch)


def test_what_comes_of_a_catalog_that_was_followed_is_done_though_it_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Live conditions that do not fit it are dropped once a change of them has ended, which may take long."""
    done, goes_on = list[tuple[str, ...]](), asyncio.Event()

    async def story(catalog: Followed) -> None:
        async def was_followed() -> None:
            await goes_on.wait()
            done.append(catalog.served.catalog.names)

        catalog.live._was_followed = was_followed
        await with_g(catalog)
        await catalog.live.read()
        assert done == []
        goes_on.set()
        await asyncio.sleep(PLANNED_S)

    followed(story, monkeypatch)
    assert done == [("f", "g")]
