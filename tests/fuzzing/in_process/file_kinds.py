"""The kinds of files that commands read: where each lies in a workspace, what reads it, and what uses it then."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
from builders import MADE_BY, make_key
from tiny import INPUTS, Tiny, add_plan, add_profiles, change_json, keep_apart, make_workspace

from proteus_cli import store
from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.backends.tensorrt.records import BuiltEngine
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan_record import Base, Observation, PlanRecord
from proteus_cli.input_files import PROFILE_TABLE, read_text
from proteus_cli.profiling.answers import measure_accuracy
from proteus_cli.profiling.csv_file import parse_rows
from proteus_cli.replay.trace import read_trace, summary
from proteus_cli.serving.adaptation.plan_journal import records
from proteus_cli.serving.transport.tokens import read_tokens
from proteus_cli.settings import read_settings
from proteus_cli.store.answers import Answers, read_answers, write_answers

_RECORD = "plans/history/000001-20260102T030405Z.record.json"
_ENGINE = "engines/built/a100/shapes.shapes-s/1/model.json"


@dataclass(frozen=True)
class FileKind:
    """``path`` is within the workspace. ``read`` takes the workspace; ``command`` is run if it has read the file."""

    path: str
    read: Callable[[Path], object]
    command: Sequence[str] = ()


def _at(path: str, read: Callable[[Path], object]) -> FileKind:
    """A file that is read by its path."""
    return FileKind(path, lambda root: read(root / path))


def _accuracy(path: Path) -> float:
    return measure_accuracy(cast("Any", _Echo()), path)


class _Echo:
    """A model whose scores are its inputs."""

    signature = Signature((TensorSpec("x", np.dtype(np.float32), (INPUTS,)),), ())

    def infer(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return inputs


_REPLAY = ("replay", "{root}/trace.csv", "--plan", "plan", "--workspace", "{root}")
KINDS: Mapping[str, FileKind] = {
    "catalog": FileKind("engines/catalog.toml", lambda root: store.Workspace(root).catalog(), _REPLAY),
    "profile": FileKind("profiles/cpu0.json", lambda root: store.Workspace(root).profile("cpu0"), _REPLAY),
    "plan": FileKind("plans/plan.json", lambda root: store.Workspace(root).plan(Path("plan")), _REPLAY),
    "settings": FileKind("proteus.toml", read_settings, ("devices", "--workspace", "{root}")),
    "trace": FileKind(
        "trace.csv", lambda root: summary(read_trace(root / "trace.csv")), ("trace", "info", "{root}/trace.csv")
    ),
    "source": FileKind(
        "source.csv",
        lambda _: None,
        ("trace", "convert", "{root}/source.csv", "-o", "{root}/out.csv", "--workspace", "{root}"),
    ),
    "profiles": FileKind(
        "profiles.csv",
        lambda root: parse_rows(read_text(root / "profiles.csv", PROFILE_TABLE, hint=""), "profiles.csv"),
        ("profile", "--from-csv", "{root}/profiles.csv", "--slo", "100ms", "--workspace", "{root}/imported"),
    ),
    "model": _at("engines/models/shapes/shapes-s.onnx", store.model_digest),
    "tokens": _at("tokens", read_tokens),
    "eval": _at("engines/models/shapes/eval.npz", _accuracy),
    "answers": _at("profiles/cpu0.answers.npz", read_answers),
    "record": FileKind(_RECORD, lambda root: list(records(root / "plans" / "history"))),
    "engine": FileKind(_ENGINE, lambda _: None, ("engines", "ls", "--workspace", "{root}")),
}


def valid_files(root: Path) -> Mapping[str, bytes]:
    """Make a workspace in which all files are valid; the content of each, by kind."""
    made = make_workspace(root)
    keep_apart(made.model("shapes-s"), "weights.bin")
    add_profiles(made)
    change_json(add_plan(made, {"cpu0": "shapes-s", "cpu1": "tones-s"}), inputs={})  # so that none can be stale
    _write_others(made)
    return {name: (root / kind.path).read_bytes() for name, kind in KINDS.items()}


def _write_others(made: Tiny) -> None:
    root = made.root
    (root / "trace.csv").write_text("arrival_s,family,slo_s\n0.5,shapes,\n0.75,tones,0.1\n")
    (root / "source.csv").write_text("second,family,count\n0,shapes,3\n1,tones,2\n")
    (root / "profiles.csv").write_text(
        "device_type,family,variant,accuracy,batch,latency_ms,p95_ms\ngpu,shapes,shapes-s,0.7,1,2,3\n"
    )
    (root / "tokens").write_text("# of clients\n0123456789abcdef\n")
    (root / "tokens").chmod(0o600)
    answers = Answers("1" * 64, "2" * 64, "margin", np.zeros(3, np.float32), np.ones(3, bool), np.zeros(3, np.int64))
    write_answers(root / "profiles" / "cpu0.answers.npz", {VariantKey("shapes", "shapes-s"): answers})
    seen = Observation({"shapes": {"10s": 1.0}}, {"cpu0": 1.0})
    record = PlanRecord(
        FORMAT, MADE_BY, "a", None, Base("plan", "0" * 64), False, MADE_BY.time, "start", "it starts", seen,
        {"shapes": 1.0}, 0.1, 0.2, 2, None,
    )  # fmt: skip
    engine = BuiltEngine(FORMAT, MADE_BY, "a100", "shapes", "shapes-s", make_key(), "0" * 64, 10, 1.0)
    for path, value in ((_RECORD, record), (_ENGINE, engine)):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(msgspec.json.encode(value))
    (root / _ENGINE).with_name("model.plan").write_bytes(b"a plan")
