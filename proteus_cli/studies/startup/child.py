"""The process of one start: ``python -m proteus_cli.studies.startup.child SPEC``; prints a `ProcessStart` as JSON."""

import time

PYTHON_AT_S = time.monotonic()  # before anything else is imported

import contextlib  # noqa: E402 - as said above
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import msgspec  # noqa: E402
import numpy as np  # noqa: E402

from proteus_cli.backends.affinity import pin_this_thread  # noqa: E402
from proteus_cli.backends.base import BuildContext  # noqa: E402
from proteus_cli.backends.registry import open_backend  # noqa: E402
from proteus_cli.domain.base import Value  # noqa: E402
from proteus_cli.domain.catalog import VariantKey  # noqa: E402
from proteus_cli.domain.device import Device  # noqa: E402
from proteus_cli.errors import ProteusError  # noqa: E402
from proteus_cli.studies.results import ProcessStart  # noqa: E402


class StartSpec(Value, frozen=True):
    """A variant to start, and the time of the request by `time.monotonic`, which all processes of a system share."""

    begun_s: float
    device: Device
    model: str
    family: str
    variant: str
    built: str


def start(spec: StartSpec) -> ProcessStart:
    """Load the variant, and answer a row."""
    pin_this_thread(spec.device.cores)
    rng = np.random.default_rng(0)
    backend = open_backend(spec.device, BuildContext(Path(spec.built)))
    backend_s = time.monotonic()
    with backend.runner(Path(spec.model), VariantKey(spec.family, spec.variant)) as runner:
        loaded_s = time.monotonic()
        inputs = runner.signature.sample(1, rng)
        runner.infer(inputs)
        answered_s = time.monotonic()
    begun_s = spec.begun_s
    return ProcessStart(
        PYTHON_AT_S - begun_s, backend_s - begun_s, loaded_s - begun_s, answered_s - begun_s, _read_bytes()
    )


def _read_bytes() -> int | None:
    """Bytes that this process read from disks; None where the system does not say."""
    import psutil  # noqa: PLC0415 - once all is measured

    with contextlib.suppress(psutil.Error, NotImplementedError):
        return psutil.Process().io_counters().read_bytes if hasattr(psutil.Process, "io_counters") else None
    return None


def main() -> int:
    """Print the start; an error in one line on stderr, and 1."""
    try:
        found = start(msgspec.json.decode(sys.argv[1], type=StartSpec))
    except ProteusError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    sys.stdout.write(msgspec.json.encode(found).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
