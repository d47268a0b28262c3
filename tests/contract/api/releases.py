"""The releases of the bindings that we promise to work with."""

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from contract.api import standins, stubs
from contract.downloads import BUILD, locked, target


@dataclass(frozen=True, slots=True)
class Release:
    """One release: how it is called here, what pip calls it, its package, and the rules that its stubs don't need."""

    name: str
    distribution: str
    version: str
    package: str = "tensorrt_bindings"
    idle_rules: frozenset[str] = frozenset()

    @property
    def requirement(self) -> str:
        return f"{self.distribution}=={self.version}"


RELEASES = (
    Release("10.13", "tensorrt-cu12-bindings", "10.13.3.9", idle_rules=frozenset({stubs.WHOLE_NUMBERS})),
    Release("11.4", "tensorrt-cu12-bindings", "11.4.0.106"),
    Release("RTX 1.7", "tensorrt-rtx-cu12-bindings", "1.7.1.116", "tensorrt_rtx_bindings"),
)


@dataclass(frozen=True, slots=True)
class Bindings:
    """The real bindings of a release, and what makes them importable here."""

    release: Release
    installed: Path
    libraries: Path

    @property
    def extension(self) -> Path:
        """The shared library that Python loads."""
        (found,) = (self.installed / self.release.package).glob("tensorrt*.so")
        return found

    @property
    def module(self) -> str:
        """What Python calls it."""
        return f"{self.release.package}.{self.extension.name.split('.')[0]}"

    def python(self, *arguments: str | Path) -> str:
        """What Python says on stdout, with the bindings importable. Raises `CalledProcessError`."""
        env = os.environ | {
            "LD_LIBRARY_PATH": _before(self.libraries, "LD_LIBRARY_PATH"),
            "PYTHONPATH": _before(self.installed, "PYTHONPATH"),
        }
        ended = subprocess.run([sys.executable, *arguments], check=True, env=env, stdout=subprocess.PIPE, text=True)
        return ended.stdout


def _before(path: Path, variable: str) -> str:
    return os.pathsep.join(filter(None, (str(path), os.environ.get(variable))))


def install(release: Release) -> Bindings:
    """Install the real bindings, and make the stand-ins that they import on. Raises `CalledProcessError`."""
    label = f"{release.package}-{release.version}"
    bindings = Bindings(release, target(label, release.requirement), BUILD / f"standins-{label}")
    with locked(BUILD / f"standins-{label}.lock"):
        standins.make(bindings.extension, bindings.libraries)
    return bindings


def typed(bindings: Bindings) -> Path:
    """The directory in which mypy finds ``tensorrt`` as this release has it."""
    release = bindings.release
    place = BUILD / f"stubs-{release.package}-{release.version}"
    key = "\0".join((Path(stubs.__file__).read_text(encoding="utf-8"), version("pybind11-stubgen"), sys.version))
    stamp = place / ".key"
    with locked(BUILD / f"{place.name}.lock"):
        if stamp.exists() and stamp.read_text(encoding="utf-8") == key:
            return place
        raw = place / "raw"
        bindings.python("-m", "pybind11_stubgen", bindings.module, "--output-dir", raw, "--ignore-all-errors")
        text = (raw / bindings.module.replace(".", "/")).with_suffix(".pyi").read_text(encoding="utf-8")
        (place / "tensorrt.pyi").write_text(stubs.patched(text, release.idle_rules), encoding="utf-8")
        stamp.write_text(key, encoding="utf-8")
    return place
