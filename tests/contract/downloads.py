"""Packages that contract tests look into, installed once under ``build/contract`` and kept between runs."""

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract import figures

BUILD = Path(__file__).parents[2] / "build" / "contract"
RTX = "1.7.1.116"


def target(name: str, *requirements: str) -> Path:
    """The directory that holds these requirements, without what they depend on.

    Raises `CalledProcessError` where pip can't install them: a contract that can't be checked isn't kept.
    """
    place, wanted = BUILD / name, "\n".join(requirements)
    with locked(BUILD / f"{name}.lock"):
        stamp = place / ".requirements"
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
            shutil.rmtree(place, ignore_errors=True)
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            with figures.timed(f"installed {', '.join(requirements)}"):
                subprocess.run([*pip, "--target", place, *requirements], check=True)
            stamp.write_text(wanted, encoding="utf-8")
    return place


def rtx() -> Path:
    """TensorRT-RTX: its bindings, and the libraries with a builder that needs no GPU."""
    return target("rtx", f"tensorrt-rtx-cu12-bindings=={RTX}", f"tensorrt-rtx-cu12-libs=={RTX}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time is inside, whoever started it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
