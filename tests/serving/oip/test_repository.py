"""What Triton's extensions say of a family is what it is and what became of its requests."""

import asyncio
from typing import Any

import numpy as np
import pytest
from builders import make_measured, make_placement, make_plan, make_profile
from msgspec import to_builtins
from msgspec.structs import replace
from one_device import SLO_S, World, outputs, run

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.domain.device import Device
from proteus_cli.errors import BadRequest, EngineError, NotReady, Overloaded, UnknownModel
from proteus_cli.serving.lifecycle import LifecycleEvent
from proteus_cli.serving.oip.repository import ModelRepository
from proteus_cli.serving.requests.query import RequestOptions

NOW_S = 1_800_000_000.0
CPU = Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))


def models(world: World, device: Device = CPU, platform: str = "onnxruntime", **more: Any) -> ModelRepository:
    plane, profile = world.plane, replace(make_profile(device.id), device=device)
    return ModelRepository(
        plane.families, plane.controller, plane.lifecycle, plane.counts, plane.clock, platform=platform,
        profiles={device.id: profile}, unix_s=lambda: NOW_S, is_emulated=plane.is_emulated, **more,
    )  # fmt: skip


def statistics(world: World) -> Any:
    (found,) = to_builtins(models(world).statistics("f"))["model_stats"]
    return found


def config(repository: ModelRepository) -> Any:
    return to_builtins(repository.config("f"))


def index(repository: ModelRepository, *, only_ready: bool = False) -> Any:
    return to_builtins(repository.index(only_ready=only_ready))


def test_the_largest_batch_is_what_is_answered_within_the_slo() -> None:
    """4 rows take 90 ms, 5 take 110, and the SLO is 100 ms."""

    async def configured(world: World) -> None:
        assert config(models(world))["max_batch_size"] == 4

    run(configured, row_s=0.02)


def test_the_largest_batch_is_the_same_whatever_variant_is_hosted() -> None:
    """``v`` answers 4 rows within the SLO, and ``w`` 8."""

    async def configured(world: World) -> None:
        times_s = {"v": {1: 0.03, 4: 0.09, 8: 0.17}, "w": {1: 0.01, 8: 0.05}}
        measured = (make_measured("f", variant, 0.9, each) for variant, each in times_s.items())
        world.profiles["cpu0"] = make_profile("cpu0", *measured)
        world.plane.controller.placeable.changed()
        for variant in ("v", "w"):
            placed = make_placement("cpu0", "f", variant, max_batch=4, rate_qps=10, capacity_qps=40)
            await world.fleet.deploy(make_plan(placed))
            found = config(models(world))
            assert [each["name"] for each in found["instance_group"]] == [f"{variant} on cpu0"]
            assert found["max_batch_size"] == 8

    run(configured, row_s=0.02, cold=("w",))


def test_a_family_is_configured_as_it_is_served() -> None:
    async def configured(world: World) -> None:
        assert config(models(world)) == {
            "name": "f",
            "platform": "onnxruntime",
            "backend": "onnxruntime",
            "version_policy": {"specific": {"versions": [1]}},
            "max_batch_size": 8,
            "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}],
            "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [2]}],
            "instance_group": [{"name": "v on cpu0", "kind": "KIND_CPU", "count": 1, "gpus": []}],
            "dynamic_batching": {"preserve_ordering": False},
            "model_transaction_policy": {"decoupled": False},
            "parameters": {"slo_us": {"string_value": "100000"}},
        }

    run(configured)


def test_metadata_names_what_varies_with_minus_one() -> None:
    async def named(world: World) -> None:
        inputs = (TensorSpec("x", np.dtype(np.float32), (4,)), TensorSpec("k", np.dtype(np.int64), (2,)))
        outputs = (TensorSpec("y", np.dtype(np.float32), (None, 3)),)
        world.plane.families.by_name["f"].signature = Signature(inputs, outputs)
        found = to_builtins(models(world).metadata("f"))
        assert found["inputs"][1] == {"name": "k", "datatype": "INT64", "shape": [-1, 2]}
        assert found["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, -1, 3]}]
        assert (found["name"], found["versions"], found["platform"]) == ("f", ["1"], "onnxruntime")

    run(named)


def test_batches_and_requests_are_counted_apart() -> None:
    """One runs alone for 20 ms, then two of three rows in one batch for 10; batches say that they took 1 ms."""

    async def counted(world: World) -> None:
        world.submit(7, 8)
        await asyncio.sleep(0)
        world.submit(1, 2)
        world.submit(3, 4, 5, 6)
        for held_s in (0.02, 0.01):
            await asyncio.sleep(held_s)
            world.executor.release()
        await asyncio.sleep(0.25)
        found, stats = statistics(world), statistics(world)["inference_stats"]
        assert (found["name"], found["version"]) == ("f", "1")
        assert (found["inference_count"], found["execution_count"]) == (4, 2)
        assert found["last_inference"] == NOW_S * 1e3 - 250
        assert stats["fail"] == {"count": 0, "ns": 0}
        assert stats["compute_infer"] == {"count": 3, "ns": 3_000_000}  # a request's share of a batch is all of it
        assert stats["queue"] == {"count": 3, "ns": 40_000_000}
        assert stats["success"] == {"count": 3, "ns": 80_000_000}
        nothing = {"count": 1, "ns": 0}
        assert found["batch_stats"] == [
            {
                "batch_size": rows,
                "compute_input": nothing,
                "compute_infer": {"count": 1, "ns": 1_000_000},
                "compute_output": nothing,
            }
            for rows in (1, 3)
        ]

    run(counted)


def test_failures_count_with_the_time_they_took() -> None:
    """One fails after 20 ms, one is late at its deadline, one waits until its client goes; none is a success."""

    async def fails(world: World) -> None:
        world.submit(1, 2)
        await asyncio.sleep(0.02)
        world.executor.release(EngineError("broken"))
        world.submit(3, 4)
        await asyncio.sleep(0)
        gone = world.submit(5, 6, options=RequestOptions(timeout_s=60.0))
        await asyncio.sleep(SLO_S + 0.05)
        world.plane.admission.cancel(gone)
        world.executor.release()
        await asyncio.sleep(0.01)
        stats = statistics(world)["inference_stats"]
        assert stats["success"] == {"count": 0, "ns": 0}
        assert stats["fail"]["count"] == 3
        assert (0.02 + 2 * SLO_S) * 1e9 < stats["fail"]["ns"] < 5e9

    run(fails)


def test_statistics_are_of_one_family_or_of_all() -> None:
    async def told(world: World) -> None:
        assert [found.name for found in models(world).statistics().model_stats] == ["f"]
        for ask in (models(world).statistics, models(world).config):
            with pytest.raises(UnknownModel, match="no model `g`"):
                ask("g")

    run(told)


def test_an_unloaded_family_finishes_what_is_inside_takes_nothing_and_comes_back_at_once() -> None:
    async def away_and_back(world: World) -> None:
        world.submit(1, 2)
        await asyncio.sleep(0.01)
        models(world).unload("f")
        with pytest.raises(NotReady, match="`f` is unloaded"):
            world.submit(3, 4)
        world.executor.release()
        await asyncio.sleep(0.01)
        assert [outputs(result) for result in world.results] == [[2, 4]]

        models(world).load("f")
        world.submit(5, 6)
        await asyncio.sleep(0.01)
        world.executor.release()
        await asyncio.sleep(0.01)
        assert [outputs(result) for result in world.results] == [[2, 4], [10, 12]]

    run(away_and_back)


def test_only_what_a_loaded_family_is_asked_is_demand() -> None:
    """Also where nobody hosts it: so the planner gives it no place while it is unloaded, and one when it is back."""

    async def demanded(world: World) -> None:
        kept, controller = models(world), world.plane.controller
        await world.fleet.deploy(make_plan(demand_qps={"f": 0.0}, devices=["cpu0"]))
        for act, error, has_demand in ((kept.unload, NotReady, False), (kept.load, Overloaded, True)):
            act("f")
            for _ in range(10):
                with pytest.raises(error):
                    world.submit(1, 2)
            await asyncio.sleep(0.12)  # what is counted is known a tenth of a second later
            assert (controller.demand.rate_qps("f", 1.0, world.plane.clock()) > 0) is has_demand
        await world.fleet.deploy(world.plan)
        world.submit(1, 2)
        await asyncio.sleep(0.01)
        world.executor.release()
        await asyncio.sleep(0.01)
        assert [outputs(result) for result in world.results] == [[2, 4]]

    run(demanded)


def test_the_index_says_who_answers_and_why_nobody_does() -> None:
    async def listed(world: World) -> None:
        kept, ready = models(world), {"name": "f", "version": "1", "state": "READY", "reason": ""}
        variants = [{"variant": "v", "accuracy": 0.9, "device": "cpu0"}]
        assert index(kept) == index(kept, only_ready=True) == [{**ready, "variants": variants}]

        kept.unload("f")
        assert index(kept) == [{**ready, "state": "UNAVAILABLE", "reason": "unloaded", "variants": variants}]
        assert kept.index(only_ready=True) == []

        kept.load("f")
        await world.fleet.deploy(make_plan(demand_qps={"f": 0.0}, devices=["cpu0"]))
        assert kept.index()[0].reason == "the plan in force hosts no variant of it"
        assert kept.index()[0].variants == []
        world.lifecycle.on(LifecycleEvent.STOPPED)
        assert kept.index()[0].reason == "the server is draining"

    run(listed)


def test_what_is_not_there_or_is_another_model_is_not_loaded() -> None:
    async def refused(world: World) -> None:
        kept = models(world)
        for act, aim in ((kept.load, "load"), (kept.unload, "unload")):
            with pytest.raises(BadRequest, match=f"failed to {aim} 'g', no such model in the repository; there are: f"):
                act("g")
        kept.unload("f")
        for parameters in ({"config": "{}"}, {"file:1/model.onnx": "AAAA"}):
            with pytest.raises(BadRequest, match="models are what the catalog says"):
                kept.load("f", parameters)
        assert kept.index()[0].state == "UNAVAILABLE"
        kept.load("f", {"anything": 1})
        assert kept.index()[0].state == "READY"

    run(refused)
