"""What an engine is built from, and what has changed since."""

from typing import Any

import msgspec
import pytest
from builders import MADE_BY, make_key

from proteus_cli.backends.tensorrt.records import BuildOptions, BuiltEngine, EngineKey, Gpu
from proteus_cli.domain.base import FORMAT, checked

KEY = make_key()
DIGEST = "ab" * 32

# Every field of a key, another value of it, and how the change is called.
CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"model_digest": DIGEST}, "another model"),
    ({"tensorrt": "11.4.0.106"}, "TensorRT 10.13.3.9 → 11.4.0.106"),
    ({"gpu": {"name": "A100"}}, "GPU Tesla T4 → A100"),
    ({"gpu": {"compute_capability": "8.0"}}, "compute capability 7.5 → 8.0"),
    ({"gpu": {"multiprocessors": 14}}, "multiprocessors 40 → 14"),
    ({"gpu": {"driver": "570.86"}}, "driver 550.54 → 570.86"),
    ({"options": {"min_batch": 2}}, "smallest batch 1 → 2"),
    ({"options": {"opt_batch": 16}}, "best batch 8 → 16"),
    ({"options": {"max_batch": 64}}, "largest batch 32 → 64"),
    ({"options": {"workspace_bytes": 2**30 + 1}}, "workspace 1,073,741,824 bytes → 1,073,741,825 bytes"),
    ({"options": {"hardware_compatible": True}}, "hardware compatibility off → on"),
]


def changed(fields: dict[str, Any]) -> EngineKey:
    """The key with other fields, of which those that are dictionaries are changes within."""
    inner = {
        name: msgspec.structs.replace(getattr(KEY, name), **value) if isinstance(value, dict) else value
        for name, value in fields.items()
    }
    return msgspec.structs.replace(KEY, **inner)


@pytest.mark.parametrize(("fields", "words"), CHANGES, ids=[words for _, words in CHANGES])
def test_a_change_is_named(fields: dict[str, Any], words: str) -> None:
    assert changed(fields).changed_from(KEY) == (words,)


def test_every_field_of_a_key_is_tried_here() -> None:
    """So that a new one isn't forgotten: a field that no change names would leave stale engines in use."""
    parts = {"gpu": Gpu, "options": BuildOptions}
    every = {
        (name, inner)
        for name in EngineKey.__struct_fields__
        for inner in getattr(parts.get(name), "__struct_fields__", [""])
    }
    tried = {
        (name, inner)
        for fields, _ in CHANGES
        for name, value in fields.items()
        for inner in (value if isinstance(value, dict) else [""])
    }
    assert tried == every


def test_all_changes_are_named_in_the_order_of_the_key() -> None:
    now = changed({"model_digest": DIGEST, "gpu": {"driver": "570.86"}, "options": {"max_batch": 64}})
    assert now.changed_from(KEY) == ("another model", "driver 550.54 → 570.86", "largest batch 32 → 64")


def test_nothing_has_changed_from_an_equal_key() -> None:
    assert make_key().changed_from(KEY) == ()


@pytest.mark.parametrize(
    ("smallest", "best", "largest"), [(0, 1, 1), (1, 0, 1), (1, 2, 1), (2, 1, 4), (4, 2, 1), (-1, 1, 1)]
)
def test_batch_sizes_that_do_not_rise_from_1_are_refused(smallest: int, best: int, largest: int) -> None:
    with pytest.raises(ValueError, match="batches must rise from 1"):
        BuildOptions(opt_batch=best, max_batch=largest, min_batch=smallest)


@pytest.mark.parametrize("digest", ["", "00", "G" * 64, "A" * 64, "0" * 65])
def test_a_digest_is_sha_256_in_hex(digest: str) -> None:
    with pytest.raises(ValueError, match="model_digest"):
        checked(make_key(digest))
    with pytest.raises(ValueError, match="plan_digest"):
        checked(BuiltEngine(FORMAT, MADE_BY, "t4", "a", "a-s", KEY, digest, plan_bytes=1, build_s=0.0))


def test_what_was_built_reads_back_as_it_was_written() -> None:
    built = BuiltEngine(FORMAT, MADE_BY, "t4", "a", "a-s", KEY, DIGEST, plan_bytes=10, build_s=1.5)
    assert msgspec.json.decode(msgspec.json.encode(built), type=BuiltEngine) == built


@pytest.mark.parametrize(
    "fields", [{"format": 2}, {"device_type": ""}, {"plan_bytes": 0}, {"build_s": -1.0}, {"build_s": float("nan")}]
)
def test_a_record_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    built = BuiltEngine(FORMAT, MADE_BY, "t4", "a", "a-s", KEY, DIGEST, plan_bytes=10, build_s=1.5)
    with pytest.raises(ValueError, match=next(iter(fields))):
        checked(msgspec.structs.replace(built, **fields))
