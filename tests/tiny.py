"""A workspace that is small and fast to load: two families of tiny networks, with profiles written by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from proteus_cli import store
from proteus_cli.backends.affinity import usable_cores
from proteus_cli.backends.discovery import discover
from proteus_cli.domain.base import FORMAT, MadeBy
from proteus_cli.domain.device import Device
from proteus_cli.domain.plan import PLAN_FORMAT, Placement, Plan, Solver
from proteus_cli.domain.profile import BackendInfo, Point, Profile, VariantProfile
from proteus_cli.domain.rules import Rules
from proteus_cli.settings import read_settings
from proteus_cli.units import parse_duration

INPUTS = 4
CLASSES = 3
SLO = "200ms"
DEVICES = ("cpu0", "cpu1")
BATCHES = (1, 2, 4, 8)
MADE_BY = MadeBy(version="0.0.0", host="bench", time="2026-01-02T03:04:05+00:00")


@dataclass(frozen=True)
class TinyVariant:
    """``first_s`` is the p95 of one row, ``row_s`` what each more row adds, as the hand-made profiles have it."""

    name: str
    accuracy: float
    hidden: int
    first_s: float = 0.004
    row_s: float = 0.001


@dataclass(frozen=True)
class TinyFamily:
    name: str
    variants: Sequence[TinyVariant]
    weight: float = 1.0
    slo: str = SLO
    eval: str | None = None
    labels: str | None = None


SHAPES = TinyFamily(
    "shapes",
    (
        TinyVariant("shapes-s", 0.70, hidden=4),
        TinyVariant("shapes-m", 0.80, hidden=8, first_s=0.010, row_s=0.004),
        TinyVariant("shapes-l", 0.90, hidden=16, first_s=0.020, row_s=0.010),
    ),
    eval="models/shapes/eval.npz",
)
TONES = TinyFamily(
    "tones",
    (
        TinyVariant("tones-s", 0.60, hidden=4),
        TinyVariant("tones-l", 0.95, hidden=16, first_s=0.020, row_s=0.010),
    ),
)
FAMILIES = (SHAPES, TONES)


@dataclass(frozen=True)
class Tiny:
    """A workspace and what is in it."""

    root: Path
    families: Sequence[TinyFamily] = field(default=FAMILIES)

    @property
    def place(self) -> store.Workspace:
        return store.Workspace(self.root)

    def model(self, variant: str) -> Path:
        family = next(f.name for f in self.families if variant in {v.name for v in f.variants})
        return self.root / "engines" / "models" / family / f"{variant}.onnx"

    def share_a_name(self, variant: str, name: str) -> None:
        """Give a variant the name of one of another family, in the catalog and in the profiles."""
        for path in (self.root / "engines" / "catalog.toml", *(self.root / "profiles").glob("*.json")):
            path.write_text(path.read_text(encoding="utf-8").replace(f'"{variant}"', f'"{name}"'), encoding="utf-8")


# --- models


def save_model(
    path: Path,
    nodes: Sequence[Any],
    *,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    weights: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Path:
    """Write an ONNX file, checked."""
    constants = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), path.stem, list(inputs), list(outputs), constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def keep_apart(path: Path, location: str) -> None:
    """Move the weights of a model into a file of their own, whose name is relative to the model's directory."""
    (path.parent / location).parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(onnx.load(path), str(path), save_as_external_data=True, location=location, size_threshold=0)


def tensor(name: str, shape: Sequence[int | str | None], dtype: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def mlp(path: Path, *, hidden: int = 8, inputs: int = INPUTS, seed: int = 0, batch: int | str = "n") -> Path:
    """``x`` [batch, inputs] → ReLU layer → ``scores`` [batch, 3]."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.standard_normal((inputs, hidden)).astype(np.float32),
        "w2": rng.standard_normal((hidden, CLASSES)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["scores"]),
    ]
    return save_model(
        path,
        nodes,
        inputs=[tensor("x", [batch, inputs])],
        outputs=[tensor("scores", [batch, CLASSES])],
        weights=weights,
    )


def passing_on(path: Path) -> Path:
    """A model whose scores are its inputs: it answers with the place of the highest input."""
    nodes = [helper.make_node("Identity", ["x"], ["scores"])]
    inputs, outputs = ([tensor(name, ["n", INPUTS])] for name in ("x", "scores"))
    return save_model(path, nodes, inputs=inputs, outputs=outputs)


def looking_up(path: Path) -> Path:
    """A model that looks up the largest input in a table of ten rows, and fails on one that is 10 or more."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], axes=[1], keepdims=0),
        helper.make_node("Cast", ["most"], ["place"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "place"], ["scores"]),
    ]
    table = np.arange(10 * CLASSES, dtype=np.float32).reshape(10, CLASSES)
    ends = [tensor("x", ["n", INPUTS])], [tensor("scores", ["n", CLASSES])]
    return save_model(path, nodes, inputs=ends[0], outputs=ends[1], weights={"table": table})


def save_eval(path: Path, *, rows: int = 32, right: int = 32, inputs: int = INPUTS) -> Path:
    """Inputs whose highest entry is the label in the first ``right`` rows, and is not in the others."""
    rng = np.random.default_rng(1)
    x = rng.random((rows, inputs)).astype(np.float32)
    y = x.argmax(axis=1)
    y[right:] = (y[right:] + 1) % inputs
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x=x, y=y)
    return path


# --- the workspace


def catalog_toml(families: Sequence[TinyFamily] = FAMILIES) -> str:
    lines = ["format = 1"]
    for family in families:
        lines += ["[[family]]", f'name = "{family.name}"', f'slo = "{family.slo}"', f"weight = {family.weight}"]
        lines += [f'eval = "{family.eval}"'] if family.eval is not None else []
        lines += [f'labels = "{family.labels}"'] if family.labels is not None else []
        for variant in family.variants:
            onnx_path = f"models/{family.name}/{variant.name}.onnx"
            lines += ["[[family.variant]]", f'name = "{variant.name}"', f'onnx = "{onnx_path}"']
            lines += [f"accuracy = {variant.accuracy}"]
    return "\n".join(lines) + "\n"


def make_workspace(root: Path, families: Sequence[TinyFamily] = FAMILIES) -> Tiny:
    """Catalog, models and eval split; two devices of one core each, where this machine has two cores."""
    made = Tiny(root, families)
    engines = root / "engines"
    for family in families:
        for seed, variant in enumerate(family.variants):
            mlp(made.model(variant.name), hidden=variant.hidden, seed=seed)
        if family.eval is not None:
            save_eval(engines / family.eval)
    (engines / "catalog.toml").write_text(catalog_toml(families))
    cores = [[core] for core in usable_cores()[: len(DEVICES)]]
    (root / "proteus.toml").write_text(f"[devices]\ncpu = {cores}\n")
    return made


def device(made: Tiny, name: str) -> Device:
    """The device as this machine has it; one made up where it has no such device."""
    here = {found.id: found for found in discover(read_settings(made.root).devices)}
    return here.get(name, Device(name, "cpu-1c", "cpu", "Tiny CPU", memory_bytes=2**30, cores=(0,)))


def points(first_s: float, row_s: float, batches: Sequence[int] = BATCHES) -> tuple[Point, ...]:
    """Measurements that are what they should be: every percentile the same."""
    latencies = ((batch, first_s + (batch - 1) * row_s) for batch in batches)
    return tuple(Point(batch, 20, s, s, s, s, s, batch / s) for batch, s in latencies)


def add_profiles(made: Tiny, devices: Sequence[str] = DEVICES) -> None:
    """Profiles as if measured, with the latencies of the variants as they are declared here."""
    for name in devices:
        variants = [_measured(made, family, variant) for family in made.families for variant in family.variants]
        backend = BackendInfo("onnxruntime", {})
        profile = Profile(FORMAT, MADE_BY, device(made, name), devices[0], backend, tuple(variants))
        store.write_json(made.place.profile_path(name), profile)


def _measured(made: Tiny, family: TinyFamily, variant: TinyVariant) -> VariantProfile:
    eval_path = made.place.eval_path(made.place.catalog().family(family.name))
    return VariantProfile(
        family=family.name,
        variant=variant.name,
        accuracy=variant.accuracy,
        model_digest=store.model_digest(made.model(variant.name)),
        engine_digest="by hand",
        eval_digest=store.digest(eval_path) if eval_path is not None else None,
        build_s=0.0,
        load_s=0.01,
        memory_bytes=2**20,
        points=points(variant.first_s, variant.row_s),
    )


def add_plan(made: Tiny, hosts: Mapping[str, str], *, demand_qps: float = 20.0, name: str = "plan") -> Path:
    """A plan that hosts one variant on each device (``hosts``: variant by device), without asking the solver."""
    family_of = {variant.name: (family, variant) for family in made.families for variant in family.variants}
    placements = []
    for device_id, variant_name in hosts.items():
        family, variant = family_of[variant_name]
        within = Rules().capacity_within(parse_duration(family.slo), points(variant.first_s, variant.row_s))
        shared = sum(family_of[other][0] is family for other in hosts.values())
        placements.append(
            Placement(
                device=device_id,
                family=family.name,
                variant=variant_name,
                max_batch=within.max_batch,
                rate_qps=demand_qps / shared,
                share=1 / shared,
                capacity_qps=within.qps,
            )
        )
    by_family = dict.fromkeys((family.name for family in made.families), 0.0)
    demand = by_family | {placement.family: demand_qps for placement in placements}
    place = made.place
    plan = Plan(
        format=PLAN_FORMAT,
        made_by=MADE_BY,
        policy="proteus",
        objective="by hand",
        rules=Rules(),
        headroom=1.2,
        demand_qps=demand,
        served_qps=demand,
        unserved_qps=by_family,
        effective_accuracy=None,
        relative_accuracy=None,
        solver=Solver("none", "optimal", 0.0, 0.0),
        fleet={"cpu-1c": tuple(hosts)},
        placements=tuple(placements),
        inputs=place.digests([place.catalog_path, *(place.profile_path(device_id) for device_id in hosts)]),
    )
    path = place.plans_dir / f"{name}.json"
    store.write_json(path, plan)
    return path


def change_json(path: Path, **fields: Any) -> None:
    """Set top-level fields of a JSON file; None removes one."""
    document = msgspec.json.decode(path.read_bytes())
    document.update(fields)
    kept = {name: value for name, value in document.items() if value is not None or fields.get(name, 0) is not None}
    path.write_bytes(msgspec.json.encode(kept))
