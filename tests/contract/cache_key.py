"""The key under which a CI system may keep ``build/contract`` between runs; ``make contract-key`` prints it.

It changes with all that the folder is made of. A folder of another key is of use, too: whatever in it is out of date is
made anew, as each part has a stamp of its own.
"""

import hashlib
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = (
    HERE / "downloads.py",
    HERE / "api" / "releases.py",
    HERE / "runtime" / "toolchain.py",
    *sorted((HERE / "runtime" / "fake_driver").iterdir()),
    *sorted((HERE / "runtime" / "fake_nvml").iterdir()),
)


def key(sources: Sequence[Path] = SOURCES) -> str:
    parts = (sys.version, platform.machine(), *platform.libc_ver(), *(path.read_text("utf-8") for path in sources))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


if __name__ == "__main__":
    print(f"contract-{key()}")  # noqa: T201 - for the CI system
