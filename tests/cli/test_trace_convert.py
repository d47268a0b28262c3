import gzip
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import Ended, files, proteus
from tiny import Tiny

from proteus_cli import store
from proteus_cli.replay.formats import NAMES
from proteus_cli.replay.scaling import scaled_to
from proteus_cli.replay.trace import read_trace, to_csv


def convert(directory: Path, text: str, *options: str, name: str = "source.csv") -> Ended:
    path = directory / name
    path.write_text(text)
    return proteus("trace", "convert", path, *options)


def rows(ended: Ended) -> list[str]:
    assert ended.code == 0, ended
    return ended.stdout.splitlines()


def arrivals(ended: Ended) -> list[float]:
    return [float(row.split(",")[0]) for row in rows(ended)[1:]]


AS_A = ("--family-from", "name=a")
OWN = "arrival_s,family\n0.000000,a\n1.500000,b\n3.000000,a\n12.000000,b\n"
LLM = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,4808,10
2023-11-16 18:15:50.9951690,3180,8
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45.5,GPT-4,1087,0,1087,API log
"""


# --- formats

FORMATS = {
    "arrivals": ("family,arrival_s,slo_s\nb,2,\na,0.5,0.05\n", (), ["0.500000,a,0.05", "2.000000,b,"]),
    "proteus-artifact": ("# ms\n114,1,69\n90,1,250\n", (), ["0.090000,source,0.25", "0.114000,source,0.069"]),
    "azure-llm": (LLM, AS_A, ["0.000000,a", "4.314579,a"]),
    "burstgpt": (
        BURSTGPT,
        ("--family-from", "column=Model"),
        ["5.000000,ChatGPT", "45.500000,GPT-4"],
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_told_by_its_first_line_and_gives_exactly_these_arrivals(name: str, tmp_path: Path) -> None:
    text, options, expected = FORMATS[name]

    told = convert(tmp_path, text, *options)
    named = convert(tmp_path, text, *options, "--format", name)

    assert rows(told)[1:] == expected
    assert f"source.csv: {name} (" in told.stderr
    assert named.stdout == told.stdout


COUNTED = {
    "counts": ("second,family,count\n0,a,3\n7,b,2\n7,a,0\n", (), {("0", "a"): 3, ("7", "b"): 2}),
}


@pytest.mark.parametrize("name", COUNTED)
def test_counts_are_spread_over_the_time_that_they_count(name: str, tmp_path: Path) -> None:
    text, options, expected = COUNTED[name]

    told = convert(tmp_path, text, *options, "--per-second")

    assert rows(told) == ["second,family,count", *(f"{s},{f},{n}" for (s, f), n in expected.items())]
    assert f"source.csv: {name} (" in told.stderr
    assert convert(tmp_path, text, *options, "--per-second", "--format", name).stdout == told.stdout


def test_every_format_is_tested() -> None:
    assert {*FORMATS, *COUNTED} == set(NAMES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,3\n4,1\n", {"0,a,3", "4,a,1"}),
        ("second,count\n0,3\n4,1\n", {"0,a,3", "4,a,1"}),
        ("0,3,b\n4,1,c\n", {"0,b,3", "4,c,1"}),
    ],
)
def test_counts_may_have_seconds_families_and_column_names(text: str, expected: set[str], tmp_path: Path) -> None:
    options = () if "b" in text else AS_A
    assert set(rows(convert(tmp_path, text, *options, "--per-second"))[1:]) == expected


def test_dates_may_have_a_zone_and_need_no_fraction(tmp_path: Path) -> None:
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    text = (
        head + "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01+00:00,3,5\n2024-05-10 02:00:02+02:00,1,1\n"
    )
    ended = convert(tmp_path, text, *AS_A)
    assert arrivals(ended) == [0.0, 0.99007, 1.99007]
    assert "0 s of the trace is 2024-05-10 00:00:00.009930 UTC" in ended.stderr


def test_files_of_the_artifact_are_named_for_their_families(tmp_path: Path) -> None:
    (tmp_path / "bert.txt").write_text("100,1,300\n300,1,300\n")
    (tmp_path / "yolo.txt.gz").write_bytes(gzip.compress(b"200,1,300\n", mtime=0))
    ended = proteus("trace", "convert", tmp_path / "bert.txt", tmp_path / "yolo.txt.gz", "--without-slo")
    assert rows(ended) == ["arrival_s,family", "0.100000,bert", "0.200000,yolo", "0.300000,bert"]


# --- columns of other formats


@pytest.mark.parametrize(
    ("text", "mapping", "expected"),
    [
        ("ts,who\n1.5,x\n0.5,y\n", ["time=ts"], ["0.500000,a", "1.500000,a"]),
        ("ts,who\n1500,x\n", ["time_ms=ts"], ["1.500000,a"]),
        ("ts\n1500000\n", ["time_us=ts"], ["1.500000,a"]),
        ("ts\n1700000000000000000\n1700000000500000000\n", ["time_ns=ts"], ["0.000000,a", "0.500000,a"]),
        ("at\n2026-01-02T03:04:05Z\n2026-01-02T03:04:06.25Z\n", ["time=at"], ["0.000000,a", "1.250000,a"]),
        ("7,1.5\n7,2\n", ["time=2"], ["1.500000,a", "2.000000,a"]),
        ("ts,by\n1,50\n2,\n", ["time=ts", "slo_ms=by"], ["1.000000,a,0.05", "2.000000,a,"]),
    ],
)
def test_columns_of_any_file_can_be_mapped(text: str, mapping: list[str], expected: list[str], tmp_path: Path) -> None:
    options = [part for assignment in mapping for part in ("--map-column", assignment)]
    assert rows(convert(tmp_path, text, *options, *AS_A))[1:] == expected


def test_a_mapped_count_is_of_the_second_after_its_time(tmp_path: Path) -> None:
    options = ("--map-column", "time=at", "--map-column", "count=n", *AS_A, "--per-second")
    assert rows(convert(tmp_path, "n,at\n2,5\n3,0\n", *options))[1:] == ["0,a,3", "5,a,2"]


# --- families

CALLS = "Timestamp,Model,Request tokens,Response tokens\n" + "".join(f"{n},app{n % 5},1,1\n" for n in range(400))


def test_a_column_names_families(tmp_path: Path) -> None:
    ended = convert(tmp_path, CALLS, "--family-from", "column=Model")
    assert rows(ended)[1:4] == ["0.000000,app0", "1.000000,app1", "2.000000,app2"]


def test_weights_draw_a_family_for_each_query(tmp_path: Path) -> None:
    ended = convert(tmp_path, CALLS, "--family-from", "weights", "--families", "a=3,b=1")
    families = [row.split(",")[1] for row in rows(ended)[1:]]
    assert families.count("a") == pytest.approx(300, abs=4 * np.sqrt(400 * 0.75 * 0.25))
    again = convert(tmp_path, CALLS, "--family-from", "weights", "--families", "a=3,b=1")
    other = convert(tmp_path, CALLS, "--family-from", "weights", "--families", "a=3,b=1", "--seed", "1")
    assert again.stdout == ended.stdout != other.stdout


def test_families_are_the_catalogs_where_none_are_named(tiny: Tiny, tmp_path: Path) -> None:
    ended = convert(tmp_path, CALLS, "-w", str(tiny.root))
    assert {row.split(",")[1] for row in rows(ended)[1:]} == {"shapes", "tones"}


def test_without_a_catalog_one_is_told_how_to_name_families(tmp_path: Path) -> None:
    ended = convert(tmp_path, CALLS, "-w", str(tmp_path))
    assert ended.code == 2
    assert "catalog.toml" in ended.stderr
    assert "--families" in ended.stderr


# --- options


def test_our_own_arrivals_stay_as_they_are(tmp_path: Path) -> None:
    assert convert(tmp_path, OWN).stdout == OWN


def test_our_own_counts_mean_the_arrivals_that_a_replay_makes_of_them(tmp_path: Path) -> None:
    path, out = tmp_path / "counts.csv", tmp_path / "out.csv"
    path.write_text("second,family,count\n" + "".join(f"{s},{f},{s % 7}\n" for s in range(50) for f in "ba"))

    assert proteus("trace", "convert", path, "-o", out).code == 0

    read, converted = read_trace(path), read_trace(out)
    np.testing.assert_allclose(converted.arrival_s, read.arrival_s, atol=1.1e-6)
    np.testing.assert_array_equal(converted.family, read.family)
    assert rows(proteus("trace", "convert", out, "--per-second"))[1:] == [
        row for s in range(50) if s % 7 for row in (f"{s},a,{s % 7}", f"{s},b,{s % 7}")
    ]


@pytest.mark.parametrize(
    ("window", "expected"),
    [("1s..3s", ["0.500000,b"]), ("1s..", ["0.500000,b", "2.000000,a", "11.000000,b"]), ("..1s", ["0.000000,a"])],
)
def test_a_window_counts_from_its_start_and_leaves_its_end_out(
    window: str, expected: list[str], tmp_path: Path
) -> None:
    assert rows(convert(tmp_path, OWN, "--window", window))[1:] == expected


def test_a_window_is_cut_before_the_trace_is_sped_up(tmp_path: Path) -> None:
    assert arrivals(convert(tmp_path, OWN, "--window", "1s..", "--speedup", "10")) == [0.05, 0.2, 1.1]


def test_a_trace_can_be_slowed_down(tmp_path: Path) -> None:
    assert arrivals(convert(tmp_path, OWN, "--speedup", "0.5")) == [0.0, 3.0, 6.0, 24.0]


def test_a_rate_is_that_of_the_busiest_10_seconds_as_in_a_replay(tmp_path: Path) -> None:
    source, out = tmp_path / "t.csv", tmp_path / "out.csv"
    made = proteus(
        "trace",
        "make",
        "burst",
        "--rate",
        "20qps",
        "--peak",
        "200qps",
        "--families",
        "a,b",
        "--seed",
        "3",
        "-o",
        source,
    )
    assert made.code == 0

    assert proteus("trace", "convert", source, "--scale-to", "500qps", "-o", out).code == 0

    expected = scaled_to(read_trace(source), 500.0, np.random.default_rng(9))
    converted = read_trace(out)
    assert sum(converted.peak_demand().values()) == pytest.approx(500, rel=0.05)
    assert len(converted) == pytest.approx(len(expected), rel=0.03)
    assert converted.duration_s <= read_trace(source).duration_s
    again = proteus("trace", "convert", source, "--scale-to", "500qps", "-o", "-")
    assert again.stdout == out.read_text()


def test_gzip_is_read_and_written_and_gives_the_same_bytes_each_time(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"  # known by content, not by name
    source.write_bytes(gzip.compress(OWN.encode()))
    for name in ("1.csv.gz", "2.csv.gz"):
        assert proteus("trace", "convert", source, "-o", tmp_path / name).code == 0
    content = (tmp_path / "1.csv.gz").read_bytes()
    assert gzip.decompress(content).decode() == OWN
    assert content == (tmp_path / "2.csv.gz").read_bytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_dash_reads_stdin(pack: type[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BufferedReader(io.BytesIO(pack(OWN.encode())))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=buffer))
    ended = proteus("trace", "convert", "-")
    assert ended.stdout == OWN
    assert "stdin: arrivals (" in ended.stderr


def test_quietly_only_the_trace_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(OWN)
    ended = proteus("-q", "trace", "convert", path)
    assert (ended.stdout, ended.stderr) == (OWN, "")


def test_sources_of_several_formats_become_one_trace(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(OWN)
    (tmp_path / "x.txt").write_text("2000,1,300\n")
    ended = proteus("trace", "convert", tmp_path / "own.csv", tmp_path / "x.txt")
    assert rows(ended)[1:] == ["0.000000,a,", "1.500000,b,", "2.000000,x,0.3", "3.000000,a,", "12.000000,b,"]


def test_a_family_with_a_comma_is_quoted_as_it_was(tmp_path: Path) -> None:
    text = 'arrival_s,family\n0.500000,"a,""b"""\n'
    assert convert(tmp_path, text).stdout == text


def test_what_was_converted_can_be_read_and_written_as_it_is(tmp_path: Path) -> None:
    out, again = tmp_path / "out.csv", tmp_path / "again.csv"
    assert convert(tmp_path, CALLS, "--families", "a,b", "-o", str(out)).code == 0
    store.write_text(again, to_csv(read_trace(out)))
    assert again.read_bytes() == out.read_bytes()


# --- what can't be converted


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("", 1, "nothing to convert"),
        ("\n\n", 2, "nothing to convert"),
        ("time,thing\n1,a\n", 1, "with `time,thing`; name one with --format, or name its columns"),
        ("arrival_s,family,colour\n1,a,red\n", 1, "no known format"),
        ("app,app,func\n", 1, "names a column twice"),
        ("1,2,3,4,5\n", 1, "no known format"),
        ("arrival_s,family\n1,a\nsoon,a\n", 3, "arrival_s `soon`"),
        ("arrival_s,family\n-1,a\n", 2, "arrival_s `-1`"),
        ("arrival_s,family\n1,a\nnan,a\n", 3, "arrival_s `nan`"),
        ("arrival_s,family\n1,a\n1e300,a\n", 3, "is no time"),
        ("arrival_s,family\n1,\n", 2, "family is empty"),
        ("arrival_s,family\n1,a\n2\n", 3, "1 cell where the header has 2"),
        ('arrival_s,family\n1,"a\n', 2, "unexpected end of data"),
        ("arrival_s,family,slo_s\n1,a,0\n", 2, "slo_s `0` is not above zero"),
        ("arrival_s,family,min_accuracy\n1,a,\n1,a,9\n", 3, "min_accuracy `9` is not a fraction"),
        ("arrival_s,family,eval_row\n1,a,\n1,a,1.5\n", 3, "eval_row `1.5` is not a whole number"),
        ("arrival_s,family,min_confidence\n1,a,0\n1,a,inf\n", 3, "min_confidence `inf` is not a number from -3e"),
        ("second,family,count\n1,a,1.5\n", 2, "count `1.5`"),
        ("second,family,count\n1,a,50000001\n", 2, "more than 50,000,000 arrivals"),
        ("second,family,count\n1,a,1\n2,a,50000000\n", 3, "more than 50,000,000 arrivals"),
        ("114,1,300\n115,1,x\n", 2, "deadline_ms `x`"),
        ("114,1,300\n# a comment\n115,1\n", 3, "2 cells where the header has 3"),
        (LLM + "yesterday,1,1\n", 4, "TIMESTAMP `yesterday` is neither"),
    ],
)
def test_a_bad_row_is_named_with_its_file_and_line_and_nothing_is_written(
    text: str, line: int, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "source.csv").write_text(text)
    before = files(tmp_path)

    ended = convert(tmp_path, text, "--families", "a", "-o", str(tmp_path / "new" / "out.csv"))

    assert ended.code == 2
    assert f"error: `{tmp_path / 'source.csv'}`, line {line}: " in ended.stderr
    assert problem in ended.stderr
    assert "\n\nhint: " in ended.stderr
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"arrival_s,family\n1,\xff\n", "line 2: not UTF-8 text"),
        (gzip.compress(b"arrival_s,family\n" + b"1,a\n" * 50, mtime=0)[:-9], "not whole gzip data"),
        (gzip.compress(b"arrival_s,family\n1,a\n", mtime=0)[:-8] + bytes(8), "not whole gzip data"),
        (b"arrival_s,family\n1," + b"a" * (1 << 21), "line 2: longer than 1 MiB"),
    ],
)
def test_what_is_no_text_is_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    ended = proteus("trace", "convert", path)
    assert ended.code == 2
    assert problem in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--format", "azure"], "No format `azure`"),
        (["--format", "burstgpt"], "no column `Timestamp`; there are: arrival_s, family"),
        (["--format", "arrivals", "--map-column", "time=arrival_s"], "Give one of"),
        (["--map-column", "arrival_s"], "maps no column"),
        (["--map-column", "time_weeks=arrival_s"], "maps no column"),
        (["--map-column", "count_ms=arrival_s"], "maps no column"),
        (["--map-column", "count=arrival_s"], "No column is mapped to the time"),
        (["--map-column", "time=a", "--map-column", "time_ms=b"], "Two columns are mapped to the time"),
        (["--map-column", "time=when", "--family-from", "name=a"], "no column `when`"),
        (["--family-from", "model"], "names no source of families"),
        (["--family-from", "name="], "names no source of families"),
        (["--family-from", "file=x"], "names no source of families"),
        (["--family-from", "column=model"], "no column `model`"),
        (["--family-from", "weights", "--families", "a=0"], "one must be above zero"),
        (["--window", "10m"], "is no window"),
        (["--window", ".."], "is no window"),
        (["--window", "3s..2s"], "is empty"),
        (["--window", "1..2"], "has no unit"),
        (["--window", "1h.."], "The window has no arrivals"),
        (["--speedup", "0"], "can't be 0.0 times as fast"),
        (["--speedup", "nan"], "can't be nan times as fast"),
        (["--speedup", "1e-300"], "would last more than a year"),
        (["--scale-to", "0qps"], "can't be scaled by 0"),
        (["--scale-to", "1e9qps"], "more than the 50,000,000"),
        (["--scale-to", "0.0001qps"], "no arrivals left"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_anything_is_printed(
    options: list[str], problem: str, tmp_path: Path
) -> None:
    ended = convert(tmp_path, OWN, *options)
    assert ended.code == 2
    assert ended.stdout == ""
    assert problem in ended.stderr
    assert "\n\nhint: " in ended.stderr


def test_counts_refuse_to_lose_latency_targets_unless_they_are_to_be_left_out(tmp_path: Path) -> None:
    text = "arrival_s,family,slo_s\n1,a,0.05\n"
    ended = convert(tmp_path, text, "--per-second")
    assert ended.code == 2
    assert "--without-slo" in ended.stderr
    assert rows(convert(tmp_path, text, "--per-second", "--without-slo"))[1:] == ["1,a,1"]


def test_counts_refuse_to_lose_what_no_option_leaves_out(tmp_path: Path) -> None:
    text = "arrival_s,family,slo_s,min_accuracy\n1,a,0.05,0.9\n"
    for options, what in (((), "slo_s"), (("--without-slo",), "min_accuracy")):
        ended = convert(tmp_path, text, "--per-second", *options)
        assert (ended.code, ended.stdout) == (2, "")
        told = f"The trace has `{what}` by request, which counts can't hold.\n\nhint: write one row per arrival\n"
        assert ended.stderr.endswith(f"error: {told}")


def test_minima_and_latency_targets_stay_with_their_requests(tmp_path: Path) -> None:
    text = "family,min_accuracy,arrival_s,slo_s\nb,0.9,2,\na,,0.5,0.05\n"
    expected = ["arrival_s,family,slo_s,min_accuracy", "0.500000,a,0.05,", "2.000000,b,,0.9"]
    assert rows(convert(tmp_path, text)) == expected
    expected = ["arrival_s,family,min_accuracy", "0.500000,a,", "2.000000,b,0.9"]
    assert rows(convert(tmp_path, text, "--without-slo")) == expected


def test_confidences_stay_with_their_requests(tmp_path: Path) -> None:
    text = "family,confidence,arrival_s\nb,0.9,2\na,,0.5\nb,0.0,1\n"
    expected = ["arrival_s,family,confidence", "0.500000,a,", "1.000000,b,0.0", "2.000000,b,0.9"]
    assert rows(convert(tmp_path, text)) == expected


def test_other_bounds_stay_with_their_requests(tmp_path: Path) -> None:
    text = "family,max_energy_j,arrival_s,min_expected_accuracy,min_confidence\nb,0.25,2,,\na,,0.5,0.9,-0.5\n"
    header = "arrival_s,family,min_expected_accuracy,max_energy_j,min_confidence"
    expected = [header, "0.500000,a,0.9,,-0.5", "2.000000,b,,0.25,"]
    assert rows(convert(tmp_path, text)) == expected


def test_rows_of_eval_splits_stay_with_their_requests(tmp_path: Path) -> None:
    text = "family,eval_row,arrival_s\nb,41,2\na,,0.5\nb,0,1\n"
    expected = ["arrival_s,family,eval_row", "0.500000,a,", "1.000000,b,0", "2.000000,b,41"]
    assert rows(convert(tmp_path, text)) == expected


def test_counts_refuse_to_lose_minima(tmp_path: Path) -> None:
    ended = convert(tmp_path, "arrival_s,family,min_accuracy\n1,a,0.9\n", "--per-second")
    assert ended.code == 2
    assert "`min_accuracy` by request" in ended.stderr


def test_too_many_families_are_refused(tmp_path: Path) -> None:
    text = "arrival_s,family\n" + "".join(f"{n},f{n}\n" for n in range(10_001))
    ended = convert(tmp_path, text)
    assert ended.code == 2
    assert "line 10002: more than 10,000 families" in ended.stderr


def test_stdin_has_no_name_to_make_a_family_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(b"1,1,300\n"))))
    assert "name of stdin" in proteus("trace", "convert", "-").stderr


def test_a_missing_source_keeps_the_trace_that_is_there(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("precious")
    ended = proteus("trace", "convert", tmp_path / "nothing.csv", "-o", out)
    assert "No file" in ended.refused()
    assert out.read_text() == "precious"
