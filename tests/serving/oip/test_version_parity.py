"""Versions over HTTP and gRPC: what is asked, what is answered and what is refused is the same."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from one_device import FLOAT
from tritonclient.grpc import service_pb2
from two_stages import UNSURE, TwoStages, run

from proteus_cli.domain.request import Bounds, Outcome
from proteus_cli.errors import BoundsUnmet, UnknownModel
from proteus_cli.serving.grpc.codec import GrpcCodec
from proteus_cli.serving.oip.repository import ModelRepository
from proteus_cli.serving.requests.in_flight import Answered
from proteus_cli.serving.requests.query import Query
from proteus_cli.serving.rest.codec.codec import RestCodec

X = np.array([UNSURE], FLOAT)


def world_with_versions(world: TwoStages) -> TwoStages:
    """`s` has no version, and `l` is of version 2; `m` is of none, and no plan has it."""
    world.plane.families.by_name["f"].versions = {"s": "", "l": "2", "m": ""}
    return world


def over_grpc(world: TwoStages, version: str, parameters: dict[str, float]) -> tuple[Query, Callable[[Answered], Any]]:
    request = service_pb2.ModelInferRequest(model_name="f", model_version=version)
    request.inputs.add(name="x", datatype="FP32", shape=list(X.shape))
    request.raw_input_contents.append(X.tobytes())
    for name, value in parameters.items():
        request.parameters[name].double_param = value
    codec = GrpcCodec(world.plane.families)
    query, _ = codec.decode(request.SerializeToString(), None)

    def said(answered: Answered) -> Any:
        answer = service_pb2.ModelInferResponse.FromString(bytes(codec.encode(query, answered)))
        scores = np.frombuffer(answer.raw_output_contents[0], FLOAT).tolist()
        return answer.model_version, answer.parameters["variant"].string_param, scores

    return query, said


def over_http(world: TwoStages, version: str, parameters: dict[str, float]) -> tuple[Query, Callable[[Answered], Any]]:
    family = world.plane.families.by_name["f"]
    codec = RestCodec("f", family.signature, 8, version=family.asked_version(version))
    tensor = {"name": "x", "datatype": "FP32", "shape": list(X.shape), "data": X.ravel().tolist()}
    output = {"name": "y", "parameters": {"binary_data": True}}
    body = {"inputs": [tensor], "outputs": [output], "parameters": parameters}
    query, _ = codec.decode(json.dumps(body).encode(), None)

    def said(answered: Answered) -> Any:
        head, tensors = codec.encode(query, answered)
        answer = json.loads(head)
        scores = np.frombuffer(b"".join(map(bytes, tensors)), FLOAT).tolist()
        return answer["model_version"], answer["parameters"]["variant"], scores

    return query, said


FRONT_ENDS = pytest.mark.parametrize("front_end", [over_http, over_grpc])


@pytest.mark.parametrize("version", ["", "1", "2", "s", "l", "m"])
@pytest.mark.parametrize("parameters", [{}, {"min_accuracy": 0.5, "min_confidence": 1.0}], ids=["", "bounds"])
def test_both_protocols_ask_the_same(version: str, parameters: dict[str, float]) -> None:
    async def asked(world: TwoStages) -> None:
        world_with_versions(world)
        http, grpc = (of(world, version, parameters)[0] for of in (over_http, over_grpc))
        assert http.options == grpc.options
        bounds = http.options.bounds or Bounds()
        assert (bounds.version and bounds.version.name) == (None if version in {"", "1"} else version)

    run(asked)


@FRONT_ENDS
@pytest.mark.parametrize(("version", "variant"), [("s", "s"), ("2", "l"), ("l", "l")])
def test_a_version_answers_alone_and_the_answer_names_it(front_end: Any, version: str, variant: str) -> None:
    """The first stage is not sure of the row; by its own version it answers all the same."""

    async def answered(world: TwoStages) -> None:
        query, said = front_end(world_with_versions(world), version, {})
        world.plane.admission.submit(query, lambda: (X.tobytes(),), world.results.append)
        await asyncio.sleep(0.02)
        (world.first if variant == "s" else world.second).release()
        await asyncio.sleep(0.01)
        (result,) = world.results
        assert isinstance(result, Answered)
        factor = 2.0 if variant == "s" else 20.0
        assert said(result) == (version, variant, (X.ravel() * np.float32(factor)).tolist())
        assert result.batch.staged is None

    run(answered)


@FRONT_ENDS
def test_a_version_that_is_not_planned_is_refused_at_once_and_an_unknown_one_is_not_found(front_end: Any) -> None:
    async def refused(world: TwoStages) -> None:
        query, _ = front_end(world_with_versions(world), "m", {})
        with pytest.raises(
            BoundsUnmet, match=r"nothing of `f` that is planned has version `m`; available: l \(0.95\), s"
        ):
            world.plane.admission.submit(query, lambda: (X.tobytes(),), world.results.append)
        assert world.plane.counts.by_family["f"].of_outcome(Outcome.REJECTED) == 1
        with pytest.raises(UnknownModel, match="`f` has no version `3`; there are: 1, 2, l, m, s"):
            front_end(world, "3", {})

    run(refused)


def test_metadata_readiness_and_configuration_are_of_the_version() -> None:
    async def told(world: TwoStages) -> None:
        plane = world_with_versions(world).plane
        models = ModelRepository(
            plane.families, plane.controller, plane.lifecycle, plane.counts, plane.clock,
            platform="onnxruntime", profiles=world.profiles,
        )  # fmt: skip
        assert models.metadata("f").versions == ["1", "2", "l", "m", "s"]
        assert {version: models.is_ready("f", version) for version in ("", "1", "2", "l", "m", "s")} == {
            "": True, "1": True, "2": True, "l": True, "m": False, "s": True,
        }  # fmt: skip
        assert [each.name for each in models.config("f", "2").instance_group] == ["l on cpu1"]
        assert models.config("f").version_policy == {"specific": {"versions": [1, 2]}}
        served, most = plane.families.by_name["f"], 2**63 - 1  # in gRPC
        served.know_beside([f"l@{number}" for number in (most, most + 1, "9" * 5000)], served)
        assert models.config("f").version_policy == {"specific": {"versions": [1, 2, most]}}
        for ask in (models.require, models.is_ready, models.config, models.statistics):
            with pytest.raises(UnknownModel, match="no version `3`"):
                ask("f", "3")
        with pytest.raises(UnknownModel, match="of all its versions: leave `2` out"):
            models.statistics("f", "2")

    run(told)
