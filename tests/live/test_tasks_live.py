"""A task that is trained anew while it is served: a server rolls the new version out, or the user is told why not."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from command_line import Ended, files, proteus
from labelled import blobs, save_blobs
from live_server import ANSWER_WITHIN_S, LiveServer, serving
from msgspec.structs import replace
from spots import make_spots

from proteus_cli.domain.profile import Profile
from proteus_cli.store import Workspace, model_digest, read_json, write_json
from proteus_cli.variants import judging
from proteus_cli.variants.training import processes

pytestmark = pytest.mark.live

TOKEN = "f00d" * 8
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
OLD, NEW = "spots-linear", "spots-linear@3"
GUARD = '[{"metric": "errors", "value": 0.5}]'
STEPS = ("--auto", "--canary=50%", f"--guard={GUARD}", "--rollback-window=1s")


@pytest.fixture(autouse=True)
def _in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast the models are is not what these tests are about, nor how training gives way to others."""
    monkeypatch.setattr(judging, "CELL_S", 0.0)
    monkeypatch.setattr(processes, "GIVES_WAY", 0)
    monkeypatch.delenv("PROTEUS_TOKEN", raising=False)


def retrained(root: Path, *options: str | Path, name: str = "spots") -> Ended:
    return proteus("task", "retrain", name, "--budget=1h", *options, "-w", root)


def url_of(live: LiveServer) -> str:
    return f"http://127.0.0.1:{live.port}"


@contextmanager
def served(root: Path, *options: str) -> Iterator[LiveServer]:
    """A server of a workspace, on one core."""
    (root / "proteus.toml").write_text("[devices]\ncpu = [[0]]\n")
    for arguments in (("profile", "--budget=0s"), ("plan", "--demand=1qps")):
        ended = proteus(*arguments, "-w", root)
        assert ended.code == 0, ended
    with serving(root, Path("plan"), "--replan=period=1s", *options) as live:
        yield live
        assert live.stop() == 0, live.log.read_text()
        assert "Traceback" not in live.log.read_text(), live.log.read_text()


def tokens_in(root: Path) -> str:
    path = root / "tokens"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return f"--auth-tokens={path}"


def know(root: Path, version: str) -> None:
    """Know the times of a version, as if it had been rolled out before: beside other tests, it would wait for a core.

    They are kept by what the model holds, and the same rows and seed give the same model.
    """
    place = Workspace(root)
    measured = read_json(place.profile_path("cpu0"), Profile, hint="")
    digest = model_digest(place.model_path(f"models/spots/{OLD}/{version}/model.onnx"))
    variants = tuple(replace(each, model_digest=digest) for each in measured.variants)
    write_json(place.version_profile_path("cpu0"), replace(measured, variants=variants))


def ask_until_ended(live: LiveServer) -> Any:
    """Ask as long as the roll-out goes on; returns what became of it."""
    x, _ = blobs(1)
    stop_s = time.monotonic() + ANSWER_WITHIN_S
    while True:
        (found,) = live.ask("GET", "/v2/proteus/rollouts", headers=AUTHORIZED).document()["rollouts"]
        if found["ending"] is not None:
            return found
        assert time.monotonic() < stop_s, (found, live.log.read_text())
        for row in x:
            tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": row.tolist()}
            assert live.infer("spots", {"inputs": [tensor]}, AUTHORIZED).status == 200


def hosted(live: LiveServer) -> set[str]:
    plan = live.ask("GET", "/v2/proteus/plan", headers=AUTHORIZED).document()
    return {placement["variant"] for placement in plan["placements"]}


@pytest.mark.skipif(find_spec("skl2onnx") is None, reason="trains, which needs skl2onnx")
def test_what_is_trained_anew_is_rolled_out_by_the_server_and_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "ws"
    (root / "engines").mkdir(parents=True)
    data = save_blobs(tmp_path / "rows.npz", 40)
    ended = proteus("task", "add", "spots", "--data", data, "--models=linear", "--slo=10s", "--budget=1h", "-w", root)
    assert ended.code == 0, ended
    with served(root, tokens_in(root), "--set=catalog-budget=2s") as live:
        new = ("--data", save_blobs(tmp_path / "new.npz", 40, seed=3), "--max-loss=0.2")
        assert retrained(root, "--keep-catalog", *new).code == 0
        know(root, "2")
        before = (root / "engines/catalog.toml").read_text()
        monkeypatch.setenv("PROTEUS_TOKEN", TOKEN)
        ended = retrained(root, "--url", url_of(live), *new, *STEPS)
        assert ended.code == 0, ended.stderr
        assert ended.stderr.splitlines()[-1].startswith(f"{url_of(live)} rolls {NEW} out; ")
        found = ask_until_ended(live)
        assert (found["ending"], found["specification"]["new"]) == ("done", NEW), found
        assert hosted(live) == {NEW}
        named = (root / "engines/catalog.toml").read_text()
        assert named == before.replace(f"{OLD}/1/model.onnx", f"{OLD}/3/model.onnx") != before


def test_what_a_server_does_not_roll_out_is_kept_and_the_command_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is one of another workspace, which is the same at first."""
    root, other = make_spots(tmp_path / "ws"), tmp_path / "other"
    shutil.copytree(root, other)
    with served(other, tokens_in(other)) as live:
        url, before, text = url_of(live), files(root), (root / "engines/catalog.toml").read_text()

        def refused(text: str, *, name: str = "spots", code: int = 2) -> str:
            """The message, where the catalog says that; nothing is trained."""
            (root / "engines/catalog.toml").write_text(text)
            message = retrained(root, "--url", url, *STEPS, name=name).refused(code)
            (root / "engines/catalog.toml").write_text(before["engines/catalog.toml"].decode())
            assert files(root) == before
            return message

        assert "answered 401" in refused(text, code=1)
        monkeypatch.setenv("PROTEUS_TOKEN", TOKEN)
        assert "serves no family `dots`" in refused(text.replace('"spots"', '"dots"'), name="dots")
        assert "spots is changed (slo)" in refused(text.replace('"10s"', '"9s"'))
        ended = retrained(root, "--url", url, *STEPS)
        assert ended.code == 1, ended
        assert "The new versions are written, but not rolled out: The server refuses: No model" in ended.stderr
        options = f"--canary 50% --guard '{GUARD}' --auto --rollback-window 1s --url {url}"
        assert ended.stderr.splitlines()[-3:] == [
            "hint: to roll them out then:",
            f"  proteus rollout start spots spots-l@2 {options}",
            f"  proteus rollout start spots spots-s@2 {options}",
        ]
        assert files(root).items() > before.items()
        assert (root / "engines/models/spots/spots-l/2/model.onnx").is_file()


@pytest.mark.parametrize(
    ("has_tokens", "options", "why"),
    [
        (False, (), "start with `--auth-tokens`"),
        (True, ("--set=catalog-budget=0s",), "measures no new versions"),
    ],
)  # fmt: skip
def test_nothing_is_trained_where_the_server_rolls_nothing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], why: str, *, has_tokens: bool
) -> None:
    root = make_spots(tmp_path / "ws")
    monkeypatch.setenv("PROTEUS_TOKEN", TOKEN)
    with served(root, *([tokens_in(root)] if has_tokens else []), *options) as live:
        message = retrained(root, "--url", url_of(live)).refused(2)
        assert "rolls out no version" in message
        assert why in message
        assert not (root / "engines/models/spots/spots-l/2").exists()
