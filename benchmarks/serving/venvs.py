"""Environments of the peers, made once and kept: ``build/peers/NAME``."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving.processes import NotStarted

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / "build" / "peers"
INSTALLED_WITHIN_S = 600


def environment(name: str, packages: Sequence[str]) -> Path:
    """The Python of an environment that has these packages; made anew where it has others. Raises `NotStarted`."""
    directory = ENVIRONMENTS / name
    stamp, wanted = directory / "installed", hashlib.sha256(" ".join(packages).encode()).hexdigest()
    python = directory / "bin" / "python"
    if stamp.is_file() and stamp.read_text(encoding="ascii") == wanted:
        return python
    shutil.rmtree(directory, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(directory))
    _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    stamp.write_text(wanted, encoding="ascii")
    return python


def _run(*command: str) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALLED_WITHIN_S, env=variables, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotStarted(f"`{' '.join(command)}` took over {INSTALLED_WITHIN_S} s") from None
    if done.returncode:
        raise NotStarted(f"`{' '.join(command)}` failed: {' '.join(done.stderr[-500:].split())}")
