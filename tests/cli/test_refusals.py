"""What is wrong with the workspace is said in one form, with what to do, and leaves everything as it was."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import files, proteus
from onnx import TensorProto, helper
from tiny import (
    SHAPES,
    TONES,
    Tiny,
    TinyFamily,
    add_plan,
    add_profiles,
    catalog_toml,
    change_json,
    device,
    mlp,
    save_eval,
    save_model,
    tensor,
)

from proteus_cli.errors import ArtefactError

PLAN = ("plan", "--demand", "20qps")
PROFILE = ("profile", "--dry-run")
Break = Callable[[Tiny], object]


def refused(tiny: Tiny, *arguments: str | Path, code: int = 2) -> str:
    """The message of a command that is refused and changes nothing."""
    before = files(tiny.root)
    message = proteus(*arguments, "-w", tiny.root).refused(code)
    assert files(tiny.root) == before
    return message


# --- the catalog


def edited(old: str, new: str) -> Break:
    def change(tiny: Tiny) -> None:
        path = tiny.place.catalog_path
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize("command", [PLAN, PROFILE, ("trace", "make", "poisson", "--rate", "1qps")])
@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        pytest.param(lambda tiny: tiny.place.catalog_path.unlink(), "No file", id="missing"),
        pytest.param(lambda tiny: tiny.place.catalog_path.write_text("format = [\n"), "not a valid", id="broken"),
        pytest.param(lambda tiny: tiny.place.catalog_path.write_bytes(b"\xff\xfe"), "not a valid", id="not text"),
        pytest.param(lambda tiny: tiny.place.catalog_path.write_text(""), "`format`", id="empty"),
        pytest.param(lambda tiny: tiny.place.catalog_path.write_text("format = 1\nfamily = []"), "[[family]]", id="0"),
        pytest.param(edited("format = 1", "format = 2"), "`format` is 2; this version reads 1", id="newer"),
        pytest.param(edited("format = 1", "format = 1\ncolour = 3"), "unknown field `colour`", id="unknown field"),
        pytest.param(edited('slo = "200ms"', 'slo = "200ms"\nsla = 1'), "unknown field `sla`", id="unknown in family"),
        pytest.param(edited("accuracy = 0.7", "accuracy = 0.7\nbatch = 1"), "unknown field `batch`", id="in variant"),
        pytest.param(edited('name = "tones"', 'name = "shapes"'), "family `shapes` is listed twice", id="family twice"),
        pytest.param(edited("shapes-m", "shapes-s"), "variant of `shapes` `shapes-s` is listed twice", id="variant"),
        pytest.param(edited('name = "tones"', 'name = "../tones"'), "family name `../tones`", id="name"),
        pytest.param(edited('"200ms"', '"fast"'), "slo of `shapes`: `fast` is not a duration", id="slo: a word"),
        pytest.param(edited('"200ms"', '"200"'), "slo of `shapes`: The duration `200` has no unit", id="slo: no unit"),
        pytest.param(edited('"200ms"', '"200qps"'), "unknown unit `qps`", id="slo: a rate"),
        pytest.param(edited('"200ms"', '"0ms"'), "slo of `shapes` must be above zero", id="slo: zero"),
        pytest.param(edited('"200ms"', '"-5ms"'), "not negative", id="slo: negative"),
        pytest.param(edited('"200ms"', '"nan ms"'), "finite", id="slo: nan"),
        pytest.param(edited('"200ms"', "200"), 'slo of `shapes` has no unit: write "200ms"', id="slo: a number"),
        pytest.param(edited('"200ms"', "0.5"), 'slo of `shapes` has no unit: write "0.5ms"', id="slo: a fraction"),
        pytest.param(edited('"200ms"', "true"), "Expected `str`, got `bool`", id="slo: no number"),
        pytest.param(
            edited("accuracy = 0.7", "accuracy = 70"),
            "Expected `float` <= 1.0 - at `$.family[0].variant[0].accuracy` (name shapes, name shapes-s)",
            id="accuracy: percent",
        ),
        pytest.param(
            edited("accuracy = 0.7", "accuracy = nan"), "at `$.family[0].variant[0].accuracy`", id="accuracy: nan"
        ),
        pytest.param(
            edited("weight = 1.0", "weight = -1.0"),
            "Expected `float` >= 0.0 - at `$.family[0].weight` (name shapes)",
            id="weight: negative",
        ),
        pytest.param(edited("weight = 1.0", "weight = inf"), "at `$.family[0].weight`", id="weight: infinite"),
    ],
)
def test_a_catalog_that_makes_no_sense_is_refused_by_every_command(
    tiny: Tiny, break_it: Break, problem: str, command: tuple[str, ...]
) -> None:
    break_it(tiny)
    message = refused(tiny, *command)
    assert problem in message
    assert "engines/catalog.toml" in message


def test_a_server_that_starts_in_place_of_an_error_is_stopped_and_has_no_error(tiny: Tiny) -> None:
    add_profiles(tiny)
    plan = add_plan(tiny, {"cpu0": "shapes-s"})
    ended = proteus("serve", plan, "--port", "0", "-w", tiny.root, within_s=0.0)
    assert ended.code == 0, ended
    with pytest.raises(AssertionError):
        ended.refused()


def test_a_total_cannot_be_shared_where_all_weights_are_zero(tiny: Tiny) -> None:
    path = tiny.place.catalog_path
    path.write_text(path.read_text().replace("weight = 1.0", "weight = 0.0"))
    assert "weight 0" in refused(tiny, *PLAN)


# --- models


def fixed_batch(tiny: Tiny) -> None:
    node = helper.make_node("Identity", ["x"], ["scores"])
    save_model(tiny.model("shapes-m"), [node], inputs=[tensor("x", [1, 4])], outputs=[tensor("scores", [1, 4])])


def two_dynamic_axes(tiny: Tiny) -> None:
    node = helper.make_node("Identity", ["x"], ["scores"])
    ends = ([tensor(name, ["n", "length"])] for name in ("x", "scores"))
    save_model(tiny.model("shapes-m"), [node], inputs=next(ends), outputs=next(ends))


def takes_text(tiny: Tiny) -> None:
    node = helper.make_node("Identity", ["x"], ["scores"])
    ends = ([tensor(name, ["n", 4], TensorProto.STRING)] for name in ("x", "scores"))
    save_model(tiny.model("shapes-m"), [node], inputs=next(ends), outputs=next(ends))


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        pytest.param(lambda t: t.model("shapes-m").write_bytes(b"not a model"), "can't load", id="garbage"),
        pytest.param(lambda t: t.model("shapes-m").write_bytes(b""), "can't load", id="empty"),
        pytest.param(
            lambda t: t.model("shapes-m").write_bytes(t.model("shapes-m").read_bytes()[:100]), "can't load", id="cut"
        ),
        pytest.param(fixed_batch, "no dynamic batch axis", id="fixed batch"),
        pytest.param(two_dynamic_axes, "a dynamic axis besides the batch", id="two dynamic axes"),
        pytest.param(takes_text, "can't be served", id="text"),
    ],
)
def test_a_model_that_cannot_be_served_is_named_when_it_is_profiled(tiny: Tiny, break_it: Break, problem: str) -> None:
    break_it(tiny)
    ended = proteus("-q", "profile", "--device", "cpu0", "--budget", "0s", "--max-batch", "1", "-w", tiny.root)
    message = ended.refused(1)
    assert problem in message
    assert "shapes-m.onnx" in message


def test_variants_of_one_family_must_take_and_give_the_same(tiny: Tiny) -> None:
    node = helper.make_node("Identity", ["x"], ["scores"])
    ends = ([tensor(name, ["n", 7])] for name in ("x", "scores"))
    save_model(tiny.model("tones-l"), [node], inputs=next(ends), outputs=next(ends))
    ended = proteus("-q", "profile", "--device", "cpu0", "--budget", "0s", "--max-batch", "1", "-w", tiny.root)
    assert "`tones-l` takes or gives other tensors than `tones-s` of the same family `tones`: `x`" in ended.refused(1)


def test_a_size_that_varies_in_one_variant_may_be_fixed_in_another(tiny: Tiny) -> None:
    node = helper.make_node("Compress", ["x", "all"], ["scores"], axis=1)
    save_model(
        tiny.model("tones-l"),
        [node],
        inputs=[tensor("x", ["n", 4])],
        outputs=[tensor("scores", ["n", "classes"])],
        weights={"all": np.array([True, True, True, False])},
    )
    assert proteus("profile", "--device", "cpu0", "--budget", "0s", "--max-batch", "1", "-w", tiny.root).code == 0


def test_what_was_measured_before_a_bad_model_is_kept(tiny: Tiny) -> None:
    tiny.model("shapes-m").write_bytes(b"not a model")
    assert proteus("profile", "--device", "cpu0", "--budget", "0s", "--max-batch", "1", "-w", tiny.root).code == 1
    measured = tiny.place.profile("cpu0").of("shapes", "shapes-s")
    assert measured is not None
    assert [point.batch for point in measured.points] == [1]


@pytest.mark.parametrize("command", [PLAN, PROFILE])
def test_a_missing_model_is_refused(tiny: Tiny, command: tuple[str, ...]) -> None:
    tiny.model("tones-l").unlink()
    assert "tones-l.onnx" in refused(tiny, *command)


def test_a_directory_is_no_model(tiny: Tiny) -> None:
    tiny.model("tones-l").unlink()
    tiny.model("tones-l").mkdir()
    assert "tones-l.onnx` is a directory" in refused(tiny, *PROFILE)


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        pytest.param(lambda path: path.unlink(), "No file", id="missing"),
        pytest.param(lambda path: path.write_bytes(b"not arrays"), "Can't use the eval split", id="garbage"),
        pytest.param(lambda path: save_eval(path, inputs=7), "has shape (32, 7) for `x`", id="shape"),
    ],
)
def test_an_eval_split_that_does_not_fit_is_refused(
    tiny: Tiny, break_it: Callable[[Path], object], problem: str
) -> None:
    break_it(tiny.root / "engines" / "models" / "shapes" / "eval.npz")
    message = proteus("-q", "profile", "--device", "cpu0", "--budget", "0s", "-w", tiny.root).refused()
    assert problem in message
    assert "eval.npz" in message


# --- profiles


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        pytest.param(lambda path: path.write_text("{"), "not a valid profile", id="broken"),
        pytest.param(lambda path: path.write_bytes(b"\xff"), "not a valid profile", id="not text"),
        pytest.param(lambda path: path.write_text("[]"), "not a valid profile", id="a list"),
        pytest.param(lambda path: change_json(path, format=2), "`format` is 2; this version reads 1", id="newer"),
        pytest.param(lambda path: change_json(path, colour=1), "unknown field `colour`", id="unknown field"),
        pytest.param(lambda path: change_json(path, backend=None), "missing required field `backend`", id="missing"),
        pytest.param(lambda path: path.rename(path.with_name("cpu7.json")), "is the profile of `cpu0`", id="renamed"),
    ],
)
def test_a_profile_that_makes_no_sense_is_refused(tiny: Tiny, break_it: Callable[[Path], object], problem: str) -> None:
    break_it(tiny.place.profile_path("cpu0"))
    assert problem in refused(tiny, *PLAN)


def test_planning_without_a_profile_says_to_make_one(tiny: Tiny) -> None:
    for path in tiny.place.profiles_dir.iterdir():
        path.unlink()
    ended = proteus(*PLAN, "-w", tiny.root)
    assert "No profiles in" in ended.refused()
    assert "proteus profile" in ended.stderr


def test_a_profile_of_another_model_is_stale(tiny: Tiny) -> None:
    mlp(tiny.model("shapes-m"), hidden=5)
    message = refused(tiny, *PLAN)
    assert "`shapes/shapes-m` in the profile of `cpu0` was measured with another" in message


# --- plans


SERVE = ("serve", "plan", "--port", "0")
SIMULATE = ("replay", "--plan", "plan")


@pytest.fixture
def planned(tiny: Tiny) -> Tiny:
    """The workspace, with a plan for both families."""
    add_plan(tiny, {"cpu0": "shapes-l", "cpu1": "tones-l"})
    return tiny


def plan_path(tiny: Tiny) -> Path:
    return tiny.place.plans_dir / "plan.json"


@pytest.mark.parametrize("command", ["serve", "replay"])
@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        pytest.param(lambda path: path.unlink(), "No file `plan`", id="missing"),
        pytest.param(lambda path: path.write_text('{"format": 1'), "not a valid plan", id="broken"),
        pytest.param(lambda path: path.write_bytes(b""), "not a valid plan", id="empty"),
        pytest.param(lambda path: change_json(path, colour=1), "unknown field `colour`", id="unknown field"),
        pytest.param(lambda path: change_json(path, format=99), "`format` is 99; this version reads 2", id="newer"),
        pytest.param(lambda path: change_json(path, format=1), "`format` is 1; this version reads 2", id="older"),
        pytest.param(lambda path: change_json(path, placements=None), "field `placements`", id="field missing"),
        pytest.param(
            lambda path: change_json(path, headroom=0.5), "Expected `float` >= 1.0 - at `$.headroom`", id="headroom"
        ),
        pytest.param(
            lambda path: change_json(path, demand_qps={"shapes": -1}), ">= 0.0 - at `$.demand_qps[...]`", id="negative"
        ),
        pytest.param(
            lambda path: change_json(path, served_qps={"shapes": 1e308}), "at `$.served_qps[...]`", id="too large"
        ),
        pytest.param(lambda path: change_json(path, fleet={}), "which is not in the fleet", id="no fleet"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(
    planned: Tiny, tmp_path: Path, command: str, break_it: Callable[[Path], object], problem: str
) -> None:
    break_it(plan_path(planned))
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,family\n0,shapes\n")
    call = SERVE if command == "serve" else (*SIMULATE, str(trace))
    assert problem in refused(planned, *call)


def test_where_there_is_no_plan_to_serve_it_is_said_how_to_make_one(tiny: Tiny) -> None:
    assert "hint: run `proteus plan --demand RATE`" in proteus(*SERVE, "-w", tiny.root).stderr


def test_a_plan_whose_name_is_too_long_for_a_file_is_not_there(tiny: Tiny) -> None:
    assert "Can't read" in refused(tiny, "serve", "a" * 300)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("engines/catalog.toml", "weight = ", "weight = 1"), ("profiles/cpu1.json", '"host": "', '"host": "another ')],
)
@pytest.mark.parametrize("how", ["serve", "replay --plan", "replay --serve"])
def test_a_plan_is_stale_once_what_it_was_made_from_has_changed(
    planned: Tiny, tmp_path: Path, name: str, before: str, after: str, how: str
) -> None:
    path, trace = planned.root / name, tmp_path / "t.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(before, after, 1), encoding="utf-8")
    trace.write_text("arrival_s,family\n0.1,shapes\n", encoding="utf-8")
    command = SERVE if how == "serve" else ("replay", trace, how.split()[1], "plan")
    assert f"`{name}` has changed since" in refused(planned, *command)


def test_a_plan_stays_current_when_a_comment_is_added_to_what_it_was_made_from(planned: Tiny, tmp_path: Path) -> None:
    catalog, profile, trace = planned.place.catalog_path, planned.place.profile_path("cpu1"), tmp_path / "t.csv"
    catalog.write_text("# what is served\n" + catalog.read_text(encoding="utf-8"), encoding="utf-8")
    profile.write_text(profile.read_text(encoding="utf-8").replace("\n", "\n\n"), encoding="utf-8")
    trace.write_text("arrival_s,family\n0.1,shapes\n", encoding="utf-8")
    assert proteus("replay", trace, "--plan", "plan", "-w", planned.root).code == 0


def test_an_accuracy_that_is_not_the_catalogs_is_stale(tiny: Tiny) -> None:
    """`tones` has no eval split, so its accuracies are as declared; `shapes` has one."""
    catalog = tiny.place.catalog_path
    before = catalog.read_text(encoding="utf-8")
    declared = next(v.accuracy for family in tiny.families if family.name == "tones" for v in family.variants)
    catalog.write_text(before.replace(f"accuracy = {declared}", "accuracy = 0.1234"), encoding="utf-8")
    assert "not the one that the catalog declares" in refused(tiny, *PLAN)
    catalog.write_text(before, encoding="utf-8")
    split = tiny.place.model_path("models/shapes/eval.npz")
    split.write_bytes(split.read_bytes() + b" ")
    assert "not that of the eval split" in refused(tiny, *PLAN)


def test_a_plan_is_stale_once_what_it_was_made_from_is_gone(planned: Tiny) -> None:
    planned.place.profile_path("cpu1").unlink()
    assert "`profiles/cpu1.json`, which is gone" in refused(planned, *SERVE)


def test_a_plan_is_not_served_with_models_that_changed_after_profiling(planned: Tiny) -> None:
    mlp(planned.model("tones-l"), hidden=5)
    assert "`tones/tones-l`" in refused(planned, *SERVE, "--set=strict=true")


def test_a_plan_for_devices_that_are_not_here_is_refused(tiny: Tiny) -> None:
    add_profiles(tiny, ("cpu98", "cpu99"))
    add_plan(tiny, {"cpu98": "shapes-l", "cpu99": "tones-l"})
    message = refused(tiny, *SERVE, code=4)
    assert "`cpu98`, which is not on this machine" in message


def test_a_plan_with_a_profile_of_another_machine_is_refused(planned: Tiny) -> None:
    path = planned.place.profile_path("cpu0")
    path.write_text(path.read_text().replace(device(planned, "cpu0").name, "Another CPU"))
    change_json(plan_path(planned), inputs={})
    assert "The profile of `cpu0` is of a cpu-1c, Another CPU" in refused(planned, *SERVE, code=4)


def test_a_plan_for_a_variant_that_was_never_profiled_is_refused(planned: Tiny) -> None:
    path = planned.place.profile_path("cpu0")
    change_json(path, variants=[])
    change_json(plan_path(planned), inputs={})
    assert "which was never profiled there" in refused(planned, *SERVE)


def test_a_plan_for_a_variant_that_left_the_catalog_is_refused(planned: Tiny) -> None:
    without_l = TinyFamily("shapes", SHAPES.variants[:-1])
    planned.place.catalog_path.write_text(catalog_toml((without_l, TONES)))
    change_json(plan_path(planned), inputs={})
    assert "has no variant `shapes-l`" in refused(planned, *SERVE)


@pytest.mark.parametrize(
    ("replan", "said"),
    [
        ("yes", "`yes` is no way to re-plan"),
        ("", "`` is no way to re-plan"),
        ("period", "`period` is no way to re-plan"),
        ("off=1s", "`off=1s` is no way to re-plan"),
        ("period=", "`` is not a duration"),
        ("period=10", "has no unit"),
        ("period=-1s", "must be a finite number"),
        ("period=50ms", "too short"),
    ],
)
def test_a_way_to_replan_that_makes_no_sense_is_refused(planned: Tiny, replan: str, said: str) -> None:
    assert said in refused(planned, *SERVE, f"--replan={replan}")


def test_a_policy_that_keeps_its_plan_has_no_period(planned: Tiny) -> None:
    change_json(plan_path(planned), policy="most-accurate")
    assert "keeps its first plan" in refused(planned, *SERVE, "--replan=period=10s")


def test_a_plan_of_a_policy_that_is_unknown_is_refused(planned: Tiny) -> None:
    change_json(plan_path(planned), policy="clairvoyant")
    assert "No policy `clairvoyant`" in refused(planned, *SERVE)


def test_planning_where_no_variant_meets_its_slo_is_impossible(tiny: Tiny) -> None:
    path = tiny.place.catalog_path
    path.write_text(path.read_text().replace("200ms", "1ms"))
    assert "No variant meets its family's SLO" in refused(tiny, *PLAN, code=3)


# --- traces


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "line 1: the file is empty"),
        ("arrival_s,family\n", "no arrivals"),
        ("when,what\n0,shapes\n", "line 1: unknown header `when,what`"),
        ("arrival_s,family\nnan,shapes\n", "line 2: arrival_s `nan`"),
        ("arrival_s,family\n-1,shapes\n", "line 2: arrival_s `-1`"),
        ("arrival_s,family\n2,shapes\n1,shapes\n", "line 3"),
        ("arrival_s,family\n1,shapes,3\n", "line 2"),
        ("second,family,count\n0,shapes,1e3\n", "line 2: count `1e3`"),
        ("arrival_s,family\n0,nobody\n", "No family `nobody`"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line(tiny: Tiny, tmp_path: Path, content: str, problem: str) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text(content)
    assert problem in refused(tiny, "replay", trace)


@pytest.mark.parametrize("command", ["replay", "plan"])
def test_a_missing_trace_is_refused(tiny: Tiny, command: str) -> None:
    call = ("replay", "no.csv") if command == "replay" else ("plan", "--from-trace", "no.csv")
    assert "No file `no.csv`" in refused(tiny, *call)


def test_a_trace_of_other_families_makes_no_plan(tiny: Tiny, tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,family\n0,nobody\n")
    assert "No family `nobody`" in refused(tiny, "plan", "--from-trace", trace)


# --- where errors go


def test_a_path_that_can_not_be_looked_at_is_named(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may look everywhere, so that a test can't have a directory which may not be searched."""
    long, path = "x" * 300, tiny.place.catalog_path
    text = path.read_text()
    path.write_text(text.replace("models/shapes/shapes-s.onnx", f"models/{long}.onnx"))
    call = ("plan", "--demand=20qps", "-w", tiny.root)
    assert proteus(*call).refused() == f"Can't look at `{path.parent}/models/{long}.onnx`: File name too long."
    path.write_text(text)

    monkeypatch.setattr(Path, "is_file", raising(errno.EACCES))
    assert proteus(*call).refused().endswith("`: Permission denied.")
    with pytest.raises(PermissionError):
        proteus("--debug", *call)


def test_another_error_of_the_system_keeps_its_traceback(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", raising(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        proteus("plan", "--demand=20qps", "-w", tiny.root)


def raising(number: int) -> Callable[[Path], bool]:
    def is_file(path: Path) -> bool:
        raise OSError(number, os.strerror(number), str(path))

    return is_file


def test_a_traceback_is_there_for_who_asks_for_it(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtefactError):
        proteus("--debug", "serve", "nowhere", "-w", tiny.root)
    monkeypatch.setenv("PROTEUS_DEBUG", "1")
    with pytest.raises(ArtefactError):
        proteus("serve", "nowhere", "-w", tiny.root)


def test_messages_are_printed_as_they_are(tiny: Tiny) -> None:
    """Neither markup nor emoji codes mean anything in a path."""
    name = "[bold]:cat:[/bold]"
    assert name in proteus("serve", name, "-w", tiny.root).refused()
