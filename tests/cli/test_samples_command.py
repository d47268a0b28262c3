"""``proteus samples``: what a server has captured is listed, exported and removed; and when nothing can be captured."""

from pathlib import Path

import numpy as np
from command_line import files, proteus
from tiny import Tiny, add_plan, add_profiles

from proteus_cli.store.samples.chunk import Chunk, SampledRequest, SampledTensor, encoded_chunk, encoded_labels
from proteus_cli.store.samples.directory import CHUNK, LABELS, write_samples

NOW_S, RUN = 1_800_000_000.0, "0" * 8


def capture(root: Path, family: str) -> None:
    requests = tuple(SampledRequest(number, f"r{number}", NOW_S, "v", 1) for number in range(3))
    rows = (np.arange(12, dtype=np.float32).reshape(3, 4),)
    made = Chunk(family, RUN, (SampledTensor("x", "<f4", (4,)),), requests, np.arange(3), np.ones(3, np.float32), rows)
    write_samples(root, family, RUN, 1, NOW_S, CHUNK, encoded_chunk(made))
    write_samples(root, family, RUN, 2, NOW_S, LABELS, encoded_labels(family, RUN, {1: [2]}))


def test_samples_are_listed_exported_and_removed(tiny: Tiny) -> None:
    for family in ("shapes", "tones"):
        capture(tiny.root / "samples", family)
    there = ("-w", str(tiny.root))
    (shapes, tones) = proteus("samples", "list", "--json", *there).document()
    assert (shapes["family"], shapes["requests"], shapes["rows"], shapes["labelled"]) == ("shapes", 3, 3, 1)
    assert "2027-01-15 08:00" in proteus("samples", "list", *there).stdout
    out = tiny.root / "new.npz"
    assert "wrote 1 row" in proteus("samples", "export", "shapes", "-o", out, *there).stderr
    with np.load(out) as arrays:
        assert (arrays["y"].tolist(), arrays["x"].tolist()) == ([2], [[4, 5, 6, 7]])
    assert proteus("samples", "export", "shapes", "-o", out, "--as", "train", *there).code == 0
    with np.load(out) as arrays:
        assert (arrays["y"].tolist(), arrays["answer"].tolist()) == ([-1, 2, -1], [0, 1, 2])
    assert proteus("samples", "clear", "shapes", *there).code == 0
    assert proteus("samples", "list", "--json", *there).document() == [tones]
    assert proteus("samples", "clear", *there).code == 0
    assert not (tiny.root / "samples").exists()


def test_a_family_without_samples_is_refused_with_those_that_have_some(tiny: Tiny) -> None:
    for family in ("shapes", "tones"):
        capture(tiny.root / "samples", family)
    capture(tiny.root / "others", "notes")
    before = files(tiny.root)
    for name in ("shape", "", "../others/notes"):
        for arguments in (("clear", name), ("export", name, "-o", tiny.root / "new.npz")):
            ended = proteus("samples", *arguments, "-w", tiny.root)
            assert ended.refused() == f"There are no samples of `{name}`."
            assert "hint: there are samples of: shapes, tones" in ended.stderr
    assert files(tiny.root) == before


def test_there_is_nothing_to_export(tiny: Tiny) -> None:
    before = files(tiny.root)
    out = tiny.root / "new.npz"
    assert "no samples" in proteus("samples", "list", "-w", tiny.root).stderr
    told = proteus("samples", "export", "shapes", "-o", out, "-w", tiny.root).refused()
    assert "There are no samples of `shapes`" in told
    assert proteus("samples", "clear", "shapes", "-w", tiny.root).refused() == told
    assert files(tiny.root) == before


def test_options_that_capture_nothing_are_refused(tiny: Tiny) -> None:
    add_profiles(tiny, ("cpu0",))
    add_plan(tiny, {"cpu0": "shapes-s"})
    serve = ("serve", "plan", "--port", "0", "-w", str(tiny.root))
    assert "Emulated devices" in proteus(*serve, "--set=samples=1%", "--emulate").refused()
    assert "32.0 MiB at least" in proteus(*serve, "--set=samples=1%", "--set=samples-space=1MiB").refused()
    assert "`0%` is not a share" in proteus(*serve, "--set=samples=0%").refused()
