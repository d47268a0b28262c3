"""Fuzz a target: ``python -m fuzzing TARGET DURATION``. Exit 1 where something was found; it is in ``tests/corpus``."""

import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from fuzzing.findings import JudgeProcess, file_name, minimised
from fuzzing.targets.table import TARGETS, open_target
from fuzzing.watch import Cost

from proteus_cli.units import parse_duration

TESTS = Path(__file__).parents[1]
CORPUS = TESTS / "corpus"
WORK = TESTS.parent / "build" / "fuzz"
_ENGINES = {
    "guided": "Atheris, guided by coverage",
    "drawn": "Hypothesis, steered by cost, as Atheris is not installed",
}
_SHORTEST_S = 5.0


def main(target: str, duration: str) -> int:
    if target not in TARGETS:
        print(f"no target `{target}`; there are: {', '.join(TARGETS)}")
        return 2
    folder = WORK / target
    _put_seeds(target, folder / "inputs")
    shutil.rmtree(folder / "found", ignore_errors=True)
    engine = "guided" if find_spec("atheris") is not None else "drawn"
    print(f"{target}: {_ENGINES[engine]}", flush=True)
    cases = _run(engine, target, parse_duration(duration), folder)
    with JudgeProcess(target, folder) as judge:
        worst = Cost()
        for path in (folder / "largest", folder / "slowest"):
            if not path.exists():  # no input took any
                continue
            verdict = judge(path.read_bytes())
            worst |= Cost(verdict.peak_bytes, verdict.hold_s)
        kept = _keep_findings(target, folder, judge)
    print(f"{target}: {cases:,} cases, at most {worst}; {kept} findings", flush=True)
    return 1 if kept else 0


def _put_seeds(name: str, folder: Path) -> None:
    """Beside the inputs that earlier runs have left there."""
    folder.mkdir(parents=True, exist_ok=True)
    target = open_target(name)
    for seed, content in target.seeds().items():
        (folder / f"seed-{seed}").write_bytes(content)
    target.close()


def _run(engine: str, target: str, duration_s: float, folder: Path) -> int:
    """Run an engine, again where an input has ended its process; how many inputs it has played."""
    stop_s, cases = time.monotonic() + duration_s, 0
    while (left_s := stop_s - time.monotonic()) > 0:
        command = [sys.executable, "-m", f"fuzzing.engines.{engine}", target, f"{max(1, round(left_s))}", str(folder)]
        with (folder / "log").open("wb") as log:
            subprocess.run(command, stdout=log, stderr=log, check=False)
        cases += int((folder / "cases").read_text())
        if stop_s - time.monotonic() < _SHORTEST_S:
            break
    return cases


def _keep_findings(target: str, folder: Path, judge: JudgeProcess) -> int:
    """Write what was found to the corpus, one small input of each kind."""
    kinds: set[str] = set()
    for path in sorted((folder / "found").iterdir()):
        content = path.read_bytes()
        verdict = judge(content)
        if not verdict.kind:
            print(f"{path.name}: no finding on its own ({verdict.text})")
        elif verdict.kind not in kinds:
            kinds.add(verdict.kind)
            small = minimised(content, verdict.kind, judge)
            kept = CORPUS / target / file_name(verdict.kind, small)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(small)
            print(f"{kept.relative_to(TESTS.parent)}: {judge(small).text} ({len(small):,} bytes)", flush=True)
    return len(kinds)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
