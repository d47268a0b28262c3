"""The README's tour, run as it stands, in an empty directory."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
SHORTER = {"--budget 60s": "--budget 6s"}  # the same commands in a test's time
PATIENCE_S = 120


def _tour() -> list[str]:
    """The `sh` blocks of the tour, in order."""
    tour = README.read_text(encoding="utf-8").split("## A tour")[1].split("## Your own models")[0]
    return re.findall(r"```sh\n(.*?)```", tour, flags=re.DOTALL)


def _script(blocks: list[str]) -> str:
    """One shell script: the server runs in the background from where it is started to the end."""
    return "\n".join(["set -eu", *(_in_background(block) for block in blocks)])


def _in_background(block: str) -> str:
    for short, shorter in SHORTER.items():
        block = block.replace(short, shorter)
    if not block.startswith("proteus serve"):
        return block
    return (
        f"{block.strip()} > ready.txt & server=$!\n"
        "trap 'kill $server; wait $server' EXIT\n"
        "until grep -q ready ready.txt; do kill -0 $server; sleep 0.2; done\n"
    )


def _unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.live
@pytest.mark.timeout(PATIENCE_S)
def test_the_readmes_tour_runs_as_it_stands(tmp_path: Path) -> None:
    script = _script(_tour()).replace("8000", str(_unused_port())).replace("8001", str(_unused_port()))
    assert "proteus profile" in script
    assert "proteus replay" in script
    here = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"variant":"signals-' in done.stdout
    assert "proteus_plan_info{" in done.stdout
    assert "SLO violations" in done.stdout
    assert (tmp_path / "ws" / "plans" / "plan.json").is_file()
