"""A task that is trained anew while it is served: the server is told, and what it is told."""

from pathlib import Path

import pytest
from command_line import proteus
from labelled import blobs, save_rows
from live_server import serving
from spots import make_spots

from proteus_cli.variants.training import processes

pytestmark = pytest.mark.live

TOKEN = "f00d" * 8
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


def test_a_server_reads_the_catalog_with_the_new_versions_once_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GIVES_WAY", 0)  # a test is to be over soon
    root, there = make_spots(tmp_path / "ws"), ("-w", str(tmp_path / "ws"))
    moved = save_rows(tmp_path / "moved.npz", *blobs(40, seed=3, moved_by=9.0))
    (root / "proteus.toml").write_text("[devices]\ncpu = [[0]]\n")
    (root / "tokens").write_text(TOKEN)
    (root / "tokens").chmod(0o600)
    assert proteus("profile", "--budget", "0s", *there).code == 0
    assert proteus("plan", "--demand", "1qps", *there).code == 0
    retrain = ("task", "retrain", "spots", "--data", moved, "--budget", "1h", *there)
    with serving(root, Path("plan"), "--replan=period=1s", "--auth-tokens", str(root / "tokens")) as live:
        url = f"http://127.0.0.1:{live.port}"
        ended = proteus(*retrain, "--url", url)
        assert ended.code == 1
        assert "answered 401" in ended.stderr
        monkeypatch.setenv("PROTEUS_TOKEN", TOKEN)
        ended = proteus(*retrain, "--url", url)
        assert ended.code == 0, ended
        assert f"{url} has read the catalog" in ended.stderr
        document = live.ask("GET", "/v2/proteus/catalog", headers=AUTHORIZED).document()
        assert {(each["variant"], each["kind"], each["what"]) for each in document["changes"] if each["variant"]} == {
            ("spots-s", "changed", "its model, accuracy, estimated"), ("spots-l", "changed", "its model, accuracy"),
        }, document  # fmt: skip
        assert "train.py" not in str(document)
        assert live.stop() == 0
