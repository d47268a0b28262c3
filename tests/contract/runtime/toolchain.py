"""What the runtime part is tested with: CUDA's headers, a driver in host memory, and the real pycuda on it.

All is kept under ``build/contract`` and made again when its versions or sources change.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from contract import figures
from contract.downloads import BUILD, locked, target

HEADERS = ("nvidia-cuda-runtime-cu12==12.9.79", "nvidia-cuda-profiler-api-cu12==12.9.79")
PYCUDA = "pycuda==2026.1"
PYCUDA_NEEDS = ("pytools==2026.1.1", "platformdirs==4.14.8", "mako==1.4.3")
SOURCES = Path(__file__).parent / "fake_driver"
NVML = Path(__file__).parent / "fake_nvml"
NOT_SUPPORTED = 801
VERSIONS_OF_THE_API = ((), ("-D__CUDA_API_VERSION_INTERNAL",), ("-DCUDA_API_PER_THREAD_DEFAULT_STREAM",))


def environment(*, nvml: bool = False) -> dict[str, str]:
    """What a process needs so that `import pycuda.driver` finds pycuda, and that the fake driver; NVML where asked."""
    paths = [pycuda(), target("pycuda-needs", *PYCUDA_NEEDS)]
    search = [str(path) for path in paths] + [os.environ.get("PYTHONPATH", "")]
    libraries = [fake_driver(), *([fake_nvml()] if nvml else [])]
    return os.environ | {
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "PYTHONPATH": os.pathsep.join(filter(None, search)),
    }


def headers() -> list[Path]:
    """The directories of `cuda.h` and `cudaProfiler.h`."""
    return sorted(target("cuda-headers", *HEADERS).glob("nvidia/*/include"))


def fake_driver() -> Path:
    """The directory of a `libcuda.so.1` in host memory: all entry points of `cuda.h`, those that we have no code for
    answer that they aren't supported."""
    sources = sorted(SOURCES.iterdir())
    key = _digest([*HEADERS, *(source.read_text(encoding="utf-8") for source in sources), Path(__file__).read_text()])

    def make(place: Path) -> None:
        compiled, missing = place / "driver.o", place / "missing.c"
        options = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-pthread", *_includes()]
        _run("g++", *options, "-c", SOURCES / "driver.cpp", "-o", compiled)
        names = sorted(_entry_points() - _defined_by(compiled))
        missing.write_text("".join(f"int {name}(void) {{ return {NOT_SUPPORTED}; }}\n" for name in names), "utf-8")
        library = place / "libcuda.so.1"
        _run("gcc", "-O1", "-fPIC", "-c", missing, "-o", place / "missing.o")
        _run("g++", "-shared", "-pthread", "-Wl,-soname,libcuda.so.1", "-o", library, compiled, place / "missing.o")
        (place / "libcuda.so").symlink_to(library.name)

    return _made("fake-driver", key, make)


def fake_nvml() -> Path:
    """The directory of a `libnvidia-ml.so.1` that knows the cards of the fake driver."""
    sources = [NVML / "nvml.cpp", SOURCES / "cards.hpp"]
    key = _digest([*HEADERS, *(source.read_text(encoding="utf-8") for source in sources)])

    def make(place: Path) -> None:
        options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", *_includes()]
        _run("g++", *options, "-Wl,-soname,libnvidia-ml.so.1", sources[0], "-o", place / "libnvidia-ml.so.1")

    return _made("fake-nvml", key, make)


def pycuda() -> Path:
    """The directory of the real pycuda, built for this Python against `cuda.h`; takes a minute, once."""
    key = _digest([PYCUDA, *HEADERS, sys.version])

    def make(place: Path) -> None:
        source = place / "source"
        source.mkdir()
        _pip("download", "--no-deps", "--no-binary", "pycuda", "--no-build-isolation", PYCUDA, "--dest", source)
        (archive,) = source.glob("pycuda-*.tar.gz")
        _run("tar", "--extract", "--file", archive, "--directory", source)  # tarfile is safe from Python 3.11.4 on
        (tree,) = (path for path in source.iterdir() if path.is_dir())
        options = [
            f"--cuda-inc-dir={','.join(map(str, headers()))}",
            f"--cudadrv-lib-dir={fake_driver()}",
            "--no-cuda-enable-curand",
        ]
        configure = [sys.executable, "configure.py", "--cuda-root=/none", *options, "--cxxflags=-O0,-g0,-w"]
        subprocess.run(configure, cwd=tree, check=True, stdout=subprocess.DEVNULL)
        _pip("install", "--no-deps", "--target", place, tree)
        shutil.rmtree(source)

    return _made("pycuda", key, make)


def _made(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """The directory that ``make`` has filled, now or in a run before, for the same key."""
    place = BUILD / name
    stamp = place / ".key"
    with locked(BUILD / f"{name}.lock"):
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != key:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            with figures.timed(f"compiled {name}"):
                make(place)
            stamp.write_text(key, encoding="utf-8")
    return place


def _entry_points() -> set[str]:
    """Names of all functions of the driver, old versions of them included."""
    source = "#include <cuda.h>\n#include <cudaProfiler.h>\n"
    found: set[str] = set()
    for defines in VERSIONS_OF_THE_API:
        command = ["gcc", "-E", "-P", *_includes(), *defines, "-xc", "-"]
        text = subprocess.run(command, input=source, text=True, capture_output=True, check=True).stdout
        found.update(re.findall(r"\bCUresult\s+(cu[A-Z]\w*)\s*\(", text))
    return found


def _includes() -> list[str]:
    return [f"-isystem{directory}" for directory in headers()]


def _defined_by(compiled: Path) -> set[str]:
    listing = subprocess.run(["nm", "--defined-only", compiled], text=True, capture_output=True, check=True).stdout
    return {line.split()[2] for line in listing.splitlines() if line.split()[1] == "T"}


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _pip(verb: str, *arguments: str | Path) -> None:
    _run(sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check", *arguments)


def _run(*command: str | Path) -> None:
    subprocess.run(list(command), check=True)
