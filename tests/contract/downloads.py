"""Packages that contract tests look into, installed once under ``build/contract`` and kept between runs."""

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUILD = Path(__file__).parents[2] / "build" / "contract"


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
            subprocess.run([*pip, "--target", place, *requirements], check=True)
            stamp.write_text(wanted, encoding="utf-8")
    return place


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time is inside, whoever started it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
