"""The commands of the README and of pages for users, run as they stand, each section in an empty directory."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from ports import held_port

ROOT = Path(__file__).parents[2]
SHORTER = {  # the same commands in a test's time
    "--budget 60s": "--budget 4s",
    "--duration 30s": "--duration 6s",
    "--scale-to 600qps": "--scale-to 100qps",
}
PATIENCE_S = 240


def _tour(page: Path, title: str) -> list[str]:
    """The `sh` blocks of a section, in order."""
    tour = page.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
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


def _said(script: str, place: Path, *, last: str) -> str:
    """What the script of a tour prints, whose ``last`` command is there; it must end well."""
    assert "proteus profile" in script
    assert last in script
    here = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    with held_port() as http, held_port() as grpc:
        done = subprocess.run(
            ["bash", "-c", script.replace("8000", str(http)).replace("8001", str(grpc))],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S - 10,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.extended
@pytest.mark.live
@pytest.mark.timeout(PATIENCE_S)
def test_the_four_commands_of_the_readme_run_as_they_stand(tmp_path: Path) -> None:
    said = _said(_script(_tour(ROOT / "README.md", "Four commands")), tmp_path, last="proteus replay")
    assert '"name":"signals"' in said
    assert "SLO violations" in said
    assert (tmp_path / "ws" / "plans" / "plan.json").is_file()


@pytest.mark.extended
@pytest.mark.live
@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.skipif(find_spec("onnx") is None, reason="derives a variant, which needs onnx")
def test_the_quickstart_runs_as_it_stands(tmp_path: Path) -> None:
    said = _said(_script(_tour(ROOT / "docs" / "quickstart.md", "Your first server")), tmp_path, last="proteus replay")
    assert '"model_name":"things"' in said
    assert "burst.csv · live · 6 s" in said
    assert "could be served" in said


@pytest.mark.extended
@pytest.mark.live
@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.skipif(find_spec("skl2onnx") is None, reason="trains, which needs skl2onnx")
def test_the_life_of_a_model_runs_as_it_stands(tmp_path: Path) -> None:
    """The label is right, so that it is said of the row that was asked about; labels go to the roll-out."""
    said = _said(_script(_tour(ROOT / "docs" / "lifecycle.md", "Try it")), tmp_path, last="proteus rollout status")
    assert '"model_name":"scans"' in said
    assert '"accepted":1' in said
    assert "'accepted': 897" in said
    steps = re.findall(r"^scans +scans-(?:linear|mlp-64)@2 +scans-\S+ +([a-z]+)", said, flags=re.MULTILINE)
    assert steps[0] == "measuring"
    assert steps[-1] in {"shadow", "canary"}


@pytest.mark.extended
@pytest.mark.live
@pytest.mark.timeout(PATIENCE_S)
def test_the_tour_of_emulated_devices_runs_as_it_stands(tmp_path: Path) -> None:
    said = _said(_script(_tour(ROOT / "docs" / "serving.md", "Emulated devices")), tmp_path, last="proteus replay")
    assert '"emulated":true' in said
    assert "burst.csv · emulated · 6 s" in said
    assert (tmp_path / "rehearsal" / "ready.txt").read_text().endswith("emulated\n")
