"""A file whose content makes no sense ends a command with an error of the user, in little memory, with no traceback."""

import gzip
import io
import tracemalloc
from collections.abc import Callable
from zipfile import ZipFile

import msgspec
import numpy as np
import pytest
from command_line import proteus
from onnx import TensorProto, helper
from tiny import Tiny, add_plan, change_json, save_model, tensor

MIB = 2**20
HEADER = b"arrival_s,family\n"
DEEP = 100_000
Change = Callable[[Tiny], object]


def placed(**change: object) -> Change:
    """A change of the plan's placements."""

    def with_plan(tiny: Tiny) -> None:
        path = tiny.root / "plans" / "plan.json"
        placements = msgspec.json.decode(path.read_bytes())["placements"]
        change_json(path, placements=[each | change for each in placements])

    return with_plan


def measured(**change: object) -> Change:
    """A change of all points of a profile."""

    def with_profile(tiny: Tiny) -> None:
        path = tiny.place.profile_path("cpu0")
        variants = msgspec.json.decode(path.read_bytes())["variants"]
        for each in variants:
            each["points"] = [point | change for point in each["points"]]
        change_json(path, variants=variants)

    return with_profile


def written(name: str, content: bytes) -> Change:
    return lambda tiny: (tiny.root / name).write_bytes(content)


def replaced(name: str, old: bytes, new: bytes) -> Change:
    def with_file(tiny: Tiny) -> None:
        content = (tiny.root / name).read_bytes()
        assert old in content
        (tiny.root / name).write_bytes(content.replace(old, new, 1))

    return with_file


def unpacking_to(size: int) -> Change:
    """An eval split of so many bytes, nearly all of them zero."""

    def with_eval(tiny: Tiny) -> None:
        arrays = {"x": np.zeros((size // 16, 4), np.float32), "y": np.zeros(size // 16, np.int64)}
        np.savez_compressed(tiny.root / EVAL, **arrays)  # type: ignore[arg-type]

    return with_eval


def claiming(shape: str) -> bytes:
    """An eval split whose array says that it has that shape."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    file = io.BytesIO()
    np.savez(file, y=np.zeros(3, np.int64))
    with ZipFile(file, "a") as members:
        members.writestr("x.npy", array)
    return file.getvalue()


PLAN, PROFILE, SIMULATE = ("plan", "--demand", "20qps"), ("profile",), ("replay", "t.csv", "--plan", "plan")
EVAL, CATALOG = "engines/models/shapes/eval.npz", "engines/catalog.toml"


@pytest.mark.parametrize(
    ("change", "command"),
    [
        pytest.param(placed(max_batch=10**9), SIMULATE, id="a large batch"),
        pytest.param(placed(max_batch=10**20), SIMULATE, id="a batch beyond 64 bits"),
        pytest.param(placed(rate_qps=10**400), SIMULATE, id="a rate beyond all floats"),
        pytest.param(measured(mean_s=1e-308), PLAN, id="a latency that is nearly zero"),
        pytest.param(measured(p95_s=5e-324), PLAN, id="the smallest float"),
        pytest.param(measured(batch=10**9), PLAN, id="a large measured batch"),
        pytest.param(written("plans/plan.json", b"[" * DEEP), SIMULATE, id="deep JSON"),
        pytest.param(written("plans/plan.json", b'{"format":' * DEEP), SIMULATE, id="deep objects"),
        pytest.param(written("plans/plan.json", b"9" * DEEP), SIMULATE, id="a long number"),
        pytest.param(written(CATALOG, b"format = " + b"[" * DEEP), PLAN, id="deep TOML"),
        pytest.param(written("proteus.toml", b"[plan]\nx = " + b"[" * DEEP), PLAN, id="deep settings"),
        pytest.param(written(CATALOG, b"format = " + b"{a=" * DEEP), PLAN, id="deep tables"),
        pytest.param(written(CATALOG, b"a." * DEEP + b"a = 1"), PLAN, id="a key of many parts"),
        pytest.param(written(CATALOG, b"[" + b"a." * DEEP + b"a]"), PLAN, id="a table of many parts"),
        pytest.param(replaced(CATALOG, b"weight = 1.0", b"weight = " + b"9" * 5000), PLAN, id="a long weight"),
        pytest.param(replaced(CATALOG, b'"200ms"', b'"1e308h"'), PLAN, id="an endless SLO"),
        pytest.param(unpacking_to(80 * MIB), PROFILE, id="an eval split that unpacks to 80 MiB"),
        pytest.param(written(EVAL, claiming("(1000000000000, 4)")), PROFILE, id="an eval split of 16 TB"),
        pytest.param(written(EVAL, claiming("(3, -4)")), PROFILE, id="a negative shape"),
        pytest.param(written(EVAL, claiming("(" * 5000)), PROFILE, id="a deep header"),
        pytest.param(written("t.csv", gzip.compress(b"arrival_s,family\n" + b" " * (2 * MIB))), SIMULATE, id="a line"),
        pytest.param(
            written("t.csv", gzip.compress(b'arrival_s,family\n"' + b"\n" * (2 * MIB))), SIMULATE, id="quoted"
        ),
        pytest.param(written("t.csv", b"second,family,count\n" + b"1,shapes,999999999999\n"), SIMULATE, id="arrivals"),
        pytest.param(written("t.csv", b"arrival_s,family\n1e308,shapes\n"), SIMULATE, id="a late arrival"),
    ],
)
def test_senseless_content_is_an_error_of_the_user(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, change: Change, command: tuple[str, ...]
) -> None:
    add_plan(tiny, {"cpu0": "shapes-s"})
    (tiny.root / "t.csv").write_text("arrival_s,family\n0,shapes\n")
    change(tiny)
    monkeypatch.chdir(tiny.root)
    tracemalloc.start()
    try:
        proteus(*command).refused(2)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64 * MIB


def test_a_model_with_rows_larger_than_memory_is_refused(tiny: Tiny) -> None:
    huge = tiny.model("tones-l")
    save_model(
        huge,
        [helper.make_node("Identity", ["x"], ["y"])],
        inputs=[tensor("x", ["n", 10**6, 10**6], TensorProto.FLOAT)],
        outputs=[tensor("y", ["n", 10**6, 10**6], TensorProto.FLOAT)],
    )
    message = proteus("profile", "--device", "cpu0", "-w", tiny.root).refused(1)
    assert "A row of `x`" in message
    assert "more than 1.0 GiB" in message
