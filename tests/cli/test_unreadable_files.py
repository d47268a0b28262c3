"""A command that is to read a pipe, an endless device or a directory ends at once, with an error of the user."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from command_line import proteus
from tiny import Tiny, add_plan, keep_apart

SERVE = ("serve", "plan", "--port", "0")
PLAN = ("plan", "--demand", "20qps")
DERIVE = ("catalog", "derive", "shapes-s", "--fp16")
TLS = (*SERVE, "--tls-cert", "cert.pem", "--tls-key", "key.pem")
SIMULATE = ("replay", "t.csv", "--plan", "plan")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def directory(path: Path) -> None:
    path.mkdir()


@pytest.fixture
def planned(tiny: Tiny) -> Tiny:
    """Beside the plan: a trace, tokens, and a certificate with its key."""
    add_plan(tiny, {"cpu0": "shapes-s"})
    (tiny.root / "t.csv").write_text("arrival_s,family\n0,shapes\n")
    (tiny.root / "tokens").write_text("f00d" * 8)
    made = trustme.CA().issue_cert("localhost")
    made.cert_chain_pems[0].write_to_path(tiny.root / "cert.pem")
    made.private_key_pem.write_to_path(tiny.root / "key.pem")
    return tiny


READ: dict[str, list[tuple[str, ...]]] = {
    "proteus.toml": [PLAN, SERVE, ("devices",)],
    "engines/catalog.toml": [PLAN, ("profile",), SERVE, DERIVE],
    "engines/models/shapes/shapes-s.onnx": [("profile",), (*SERVE, "--set=strict=true"), DERIVE],
    "engines/models/tones/tones-s.weights": [("profile",)],
    "engines/models/shapes/eval.npz": [("profile",), PLAN],
    "profiles/cpu0.json": [PLAN, SERVE, ("profile", "--to-csv", "-")],
    "plans/plan.json": [SERVE, SIMULATE, ("plan", "diff", "plan", "plan")],
    "t.csv": [
        ("replay", "t.csv", "--plan", "plan"), ("trace", "info", "t.csv"), ("trace", "convert", "t.csv", "-o", "u.csv"),
        ("profile", "--from-csv", "t.csv"), ("plan", "--from-trace", "t.csv"),
    ],
    "tokens": [(*SERVE, "--auth-tokens", "tokens")],
    "cert.pem": [TLS, ("replay", "t.csv", "--url", "https://127.0.0.1:1", "--ca", "cert.pem")],
    "key.pem": [TLS],
}  # fmt: skip


@pytest.mark.parametrize("become", [pipe, endless, directory])
@pytest.mark.parametrize(
    ("name", "command"), [(name, command) for name, commands in READ.items() for command in commands]
)
def test_no_command_waits_for_or_drains_what_is_no_regular_file(
    planned: Tiny, monkeypatch: pytest.MonkeyPatch, name: str, command: tuple[str, ...], become: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(planned.root)
    path = planned.root / name
    if path.suffix == ".weights":
        keep_apart(planned.model("tones-s"), path.name)
    path.unlink()
    become(path)
    message = proteus(*command).refused(2)
    assert path.name in message or (become is directory and message == "No file `plan`.")
