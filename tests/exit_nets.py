"""Small multi-exit models, and a catalog that has one."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import numpy as np
import onnx
from msgspec.structs import replace
from onnx import helper, numpy_helper
from short_forms import parse_condition
from tiny import CLASSES, DEVICES, INPUTS, Tiny, add_plan, add_profiles, save_model, tensor

from proteus_cli import store
from proteus_cli.backends.base import NamedArrays
from proteus_cli.backends.exits.runner import HostExitRunner
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Point
from proteus_cli.domain.stages.exits import ExitProfile
from proteus_cli.store.catalog_text import toml_of

WIDTH = 6
CPU = Device("cpu0", "cpu", "cpu", "a CPU", memory_bytes=0, cores=(0,))


def exit_stages(directory: Path, count: int = 3, *, seed: int = 0) -> list[Path]:
    """ONNX files of stages: features are a ReLU layer of those before, scores of each exit a linear layer of these."""
    rng = np.random.default_rng(seed)
    files, inputs, width = [], "x", INPUTS
    for place in range(1, count + 1):
        weights = {
            "w": rng.standard_normal((width, WIDTH)).astype(np.float32),
            "v": rng.standard_normal((WIDTH, CLASSES)).astype(np.float32),
        }
        features = f"features{place}"
        nodes = [
            helper.make_node("MatMul", [inputs, "w"], ["h"]),
            helper.make_node("Relu", ["h"], [features]),
            helper.make_node("MatMul", [features, "v"], ["scores"]),
        ]
        given = [tensor("scores", ["n", CLASSES]), *([tensor(features, ["n", WIDTH])] if place < count else [])]
        path = directory / f"stage.{place}.onnx"
        files.append(save_model(path, nodes, inputs=[tensor(inputs, ["n", width])], outputs=given, weights=weights))
        inputs, width = features, WIDTH
    return files


def stages_that_hand_on(directory: Path) -> list[Path]:
    """Three stages, of which the second hands on what it takes: the third takes the features of both before."""
    first, second, _ = exit_stages(directory)
    last = directory / "last.onnx"
    model = onnx.load(second)
    model.graph.output.append(tensor("features1", ["n", WIDTH]))
    onnx.save_model(model, str(second))
    weights = {"v": np.random.default_rng(9).standard_normal((WIDTH, CLASSES)).astype(np.float32)}
    nodes = [
        helper.make_node("Add", ["features1", "features2"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["scores"]),
    ]
    inputs = [tensor(name, ["n", WIDTH]) for name in ("features1", "features2")]
    return [
        first,
        second,
        save_model(last, nodes, inputs=inputs, outputs=[tensor("scores", ["n", CLASSES])], weights=weights),
    ]


def stages_that_fail(directory: Path) -> list[Path]:
    """Those of `exit_stages`, of which the first fails on a row whose largest input is 10 or more."""
    first, *others = exit_stages(directory)
    model = onnx.load(first)
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], axes=[1], keepdims=0),
        helper.make_node("Cast", ["most"], ["place"], to=onnx.TensorProto.INT64),
        helper.make_node("Gather", ["nothing", "place"], ["found"]),
        helper.make_node("Add", ["x", "found"], ["same"]),
    ]
    weights = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    weights["nothing"] = np.zeros((10, INPUTS), np.float32)
    after = list(model.graph.node)
    after[0].input[0] = "same"
    ends = list(model.graph.input), list(model.graph.output)
    return [save_model(first, [*nodes, *after], inputs=ends[0], outputs=ends[1], weights=weights), *others]


def exits_toml(name: str, files: Sequence[str], stop_when: str, accuracy: float = 0.5) -> str:
    """A variant of the catalog."""
    listed = ", ".join(f'"{file}"' for file in files)
    condition = toml_of(msgspec.to_builtins(parse_condition(stop_when)))
    return f'[[family.variant]]\nname = "{name}"\naccuracy = {accuracy}\nexits = [{listed}]\nstop_when = {condition}\n'


def add_exits(
    made: Tiny,
    name: str,
    stop_when: str,
    exits: Sequence[ExitProfile],
    *,
    plan: str = "plan",
    whole_s: float = 0.0,
    power_w: float | None = None,
) -> Path:
    """Give the first family a multi-exit variant, with profiles as if measured, and a plan that hosts it alone.

    Its batches take ``whole_s`` of the profile; 0: as long as those of another variant.
    """
    family = made.families[0].name
    files = exit_stages(made.root / "engines" / "models" / family)
    catalog = made.place.catalog_path
    named = [file.relative_to(catalog.parent).as_posix() for file in files]
    catalog.write_text(catalog.read_text() + exits_toml(name, named, stop_when))
    variant = made.place.catalog().family(family).variant(name)
    digest = made.place.loaded_digest(made.place.catalog().family(family), variant)
    add_profiles(made)
    for device in DEVICES:
        profile = made.place.profile(device)
        other = profile.variants[0]
        own = replace(other, variant=name, accuracy=0.5, model_digest=digest, exits=tuple(exits), power_w=power_w)
        if whole_s:
            own = replace(own, points=tuple(Point(p.batch, 1, *(whole_s,) * 5, qps=1.0) for p in other.points))
        store.write_json(made.place.profile_path(device), replace(profile, variants=(*profile.variants, own)))
    path = add_plan(made, {"cpu0": made.families[0].variants[0].name}, name=plan)
    hosted = made.place.plan(path)
    store.write_json(path, replace(hosted, placements=(replace(hosted.placements[0], variant=name),)))
    return path


def whole_exit_net(path: Path, *, seed: int = 0, has_shortcut: bool = False, rows: int | str = "n") -> Path:
    """The stages of `exit_stages` as one model: outputs ``scores1``, ``scores2``, ``scores``, of ``rows``.

    With a shortcut, the last exit also takes ``features1``.
    """
    rng = np.random.default_rng(seed)
    weights, nodes, outputs, before, width = {}, [], [], "x", INPUTS
    for place, scores in enumerate(("scores1", "scores2", "scores"), start=1):
        weights[f"w{place}"] = rng.standard_normal((width, WIDTH)).astype(np.float32)
        weights[f"v{place}"] = rng.standard_normal((WIDTH, CLASSES)).astype(np.float32)
        features, last = f"features{place}", f"features{place}"
        nodes += [
            helper.make_node("MatMul", [before, f"w{place}"], [f"h{place}"]),
            helper.make_node("Relu", [f"h{place}"], [features]),
        ]
        if has_shortcut and scores == "scores":
            last = "both"
            nodes.append(helper.make_node("Add", [features, "features1"], [last]))
        nodes.append(helper.make_node("MatMul", [last, f"v{place}"], [scores]))
        outputs.append(tensor(scores, [rows, CLASSES]))
        before, width = features, WIDTH
    return save_model(path, nodes, inputs=[tensor("x", [rows, INPUTS])], outputs=outputs, weights=weights)


# --- running them


@contextmanager
def loaded(stages: list[Path], stop_when: str, confidence: str = "margin") -> Iterator[HostExitRunner]:
    backend = OnnxRuntime(CPU)
    with ExitStack() as stack:
        runners = [stack.enter_context(backend.runner(stage)) for stage in stages]
        yield HostExitRunner(runners, parse_condition(stop_when), confidence)


def inputs_of(rows: int, seed: int = 3) -> NamedArrays:
    return {"x": np.random.default_rng(seed).standard_normal((rows, INPUTS)).astype(np.float32)}
