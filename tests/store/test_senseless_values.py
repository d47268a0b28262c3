"""Whatever stands in a field of an artefact: reading it gives an artefact that can be used, or an error of the user."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import make_measured, make_placement, make_plan, make_profile

from proteus_cli import store
from proteus_cli.backends.tensorrt.records import BuildOptions, BuiltEngine, EngineKey, Gpu
from proteus_cli.domain.base import MadeBy
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import Base, Effect, FamilyEffect, Observation, PlanRecord
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import CATALOG, read_bytes
from proteus_cli.settings import read_settings

MADE_BY = MadeBy("1", "host", "2026-01-02T03:04:05+00:00")
DIGEST = "0" * 64
PLAN = make_plan(make_placement("cpu0", "a", "a-s"))
PROFILE = make_profile("cpu0", make_measured("a", "a-s", 0.8, {1: 0.01, 4: 0.02}))
RECORD = PlanRecord(
    format=1, made_by=MADE_BY, plan="p", before=None, base=Base("plan", DIGEST), emulated=False, began=MADE_BY.time,
    origin="start", reason="why", seen=Observation({"10s": {"a": 5.0}}, {"cpu0": 1.0}), planned_qps={"a": 5.0},
    solve_s=0.1, total_s=0.2, swaps=3,
    effect=Effect(MADE_BY.time, "stopped", 60.0, {"a": FamilyEffect({"served": 5}, 0.8, 0.1)}),
)  # fmt: skip
ENGINE = BuiltEngine(
    format=1, made_by=MADE_BY, device_type="t4", family="a", variant="a-s",
    key=EngineKey(DIGEST, "11.4", Gpu("T4", "7.5", 40, "570"), BuildOptions(8, 16)),
    plan_digest=DIGEST, plan_bytes=1000, build_s=3.0,
)  # fmt: skip
CATALOG_DOCUMENT: Any = {
    "format": 1,
    "family": [
        {
            "name": "a", "slo": "100ms", "weight": 1.0, "attainment": 0.99, "min_accuracy": 0.5, "max_share": 0.5,
            "reserved": ["cpu0"], "eval": "a.npz",
            "task": {"data": "a.npz", "seed": 1, "rows": 10, "retrain": "train {data} {out}"},
            "policy": {
                "prefer": "energy", "max_latency": "50ms", "max_energy_j": 2.0, "max_cost_per_million": 3.0,
            },
            "variant": [{"name": "a-s", "accuracy": 0.8, "onnx": "a.onnx", "banned": ["cpu1"]}],
        }
    ],
    "price_per_hour": {"cpu0": 1.5},
}  # fmt: skip
SETTINGS_DOCUMENT: Any = {"devices": {"cpu": [[0, 1], [2]]}, "plan": {"headroom": 1.5, "fairness": "total"}}

VALUES: list[Any] = [
    0, -1, 0.5, 1e-308, 5e-324, 1e308, -1e308, 10**9, 2**53 + 1, 2**63, 2**64, 10**20, 10**400, -(10**400),
    None, True, "", "a" * 300, "\0", "../../x", "1e999qps", "nan", [], {}, [[]], {"a": 1}, [1] * 50,
]  # fmt: skip


def places(document: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value of a document is."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield (*above, key)
        yield from places(value, (*above, key))


def changed(document: Any, place: tuple[Any, ...], value: object) -> Any:
    """A copy with another value in that place."""
    copy = holder = json.loads(json.dumps(document))
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = value
    return copy


def toml(document: dict[str, Any]) -> str:
    return "".join(f"{key} = {_inline(value)}\n" for key, value in document.items())


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return "nan" if value is None else json.dumps(value)


def expect_usable(artefact: Any) -> None:
    """What later work does first."""
    store.to_json(artefact)
    if isinstance(artefact, Profile):
        for measured in artefact.variants:
            assert float(measured.memory_with(artefact.slots)) < float("inf")
            if points := measured.points_at(artefact.slots):
                assert LatencyTable(points, lambda point: point.p95_s)(100_000) < float("inf")
    if isinstance(artefact, Plan):
        artefact.hosts_as(PLAN)


@pytest.mark.parametrize("artefact", [PLAN, PROFILE, RECORD, ENGINE], ids=lambda artefact: type(artefact).__name__)
def test_any_value_in_any_field_of_json(tmp_path: Path, artefact: Any) -> None:
    path, document = tmp_path / "f.json", msgspec.to_builtins(artefact)
    for place in places(document):
        for value in VALUES:
            path.write_text(json.dumps(changed(document, place, value)))
            with contextlib.suppress(ArtefactError):
                expect_usable(store.read_json(path, type(artefact), hint=""))
                store.content_digest(path)


def test_any_value_in_any_field_of_the_catalog(tmp_path: Path) -> None:
    path = tmp_path / "catalog.toml"
    for place in places(CATALOG_DOCUMENT):
        for value in VALUES:
            path.write_text(toml(changed(CATALOG_DOCUMENT, place, value)))
            with contextlib.suppress(ArtefactError):
                catalog = store.parse_catalog(read_bytes(path, CATALOG, hint=""), path)
                assert all(0 < slo_s < float("inf") for slo_s in catalog.slo_s().values())
                store.content_digest(path)


def test_any_value_in_any_field_of_the_settings(tmp_path: Path) -> None:
    """It is read, or refused: both happen."""
    path, is_read = tmp_path / "proteus.toml", set[bool]()
    for place in places(SETTINGS_DOCUMENT):
        for value in VALUES:
            path.write_text(toml(changed(SETTINGS_DOCUMENT, place, value)))
            try:
                read_settings(tmp_path)
            except ArtefactError:
                is_read.add(False)
            else:
                is_read.add(True)
    assert is_read == {True, False}
