"""Bounds on the multi-exit model of the sample zoo, on one core: 10,000 requests of one row; a minute.

The model is split and profiled as users do it. Each request has a bound on its latency, drawn between the time of the
first stage and one and a half times that of the whole chain. Rows and bounds are drawn with a seed. A line for each
aim; exits with 1 where one is missed. It measures the chain in its process, without network and dispatch: a server
lets in only what has time for the whole chain.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.exits.judging import Requests, Samples, aims
from benchmarks.machine import machine
from benchmarks.tables import aim_line
from proteus_cli.arrays import Ints
from proteus_cli.backends.affinity import pinned, usable_cores
from proteus_cli.backends.base import NamedArrays
from proteus_cli.backends.discovery import discover
from proteus_cli.backends.exits.runner import EXIT_NOTE, ExitRunner
from proteus_cli.backends.registry import open_backend
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.stages.exits import ExitProfile
from proteus_cli.domain.stages.forecast import ExitBounds
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace
from proteus_cli.store.eval_splits import labelled_rows

REQUESTS, SEED = 10_000, 2026
FAMILY, VARIANT = "digits-exits", "digits-exits-accurate"
MODEL, EVAL, CUTS = "models/exits/digits-exits.onnx", "models/digits/eval.npz", "part1,part2,part3"
LONGEST = 1.5
"""The longest bound, in times of the whole chain."""


def main() -> int:
    """Measure, print times and aims; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=REQUESTS, metavar="N")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as directory:
        place = workspace(Path(directory) / "ws")
        measured = place.profile("cpu0").of(FAMILY, VARIANT)
        assert measured is not None
        (device,) = discover(read_settings(place.root).devices)
        with (
            pinned(device.cores),
            open_backend(device).runner(place.loaded_paths()[VariantKey(FAMILY, VARIANT)]) as runner,
        ):
            assert isinstance(runner, ExitRunner)
            rows, labels = labelled_rows(place.root / "engines" / EVAL, runner.signature.inputs)
            samples = samples_of(runner, rows, labels)
            requests = served(runner, rows, measured.exits, options.requests)
    means_s = [each.points[0].mean_s for each in measured.exits]
    print(f"stages take {', '.join(f'{1e3 * mean_s:.3f}' for mean_s in means_s)} ms in the mean, one row")
    shares = ", ".join(f"{100 * np.mean(requests.exit == place + 1):.1f} %" for place in range(len(means_s)))
    print(f"answered by exits 1 to {len(means_s)}: {shares}; accuracy {requests.accuracy_percent(samples):.2f} %")
    found = aims(requests, samples, means_s)
    for aim in found:
        print(aim_line(aim))
    return 0 if all(aim.is_reached for aim in found) else 1


def workspace(root: Path) -> Workspace:
    """A workspace with the multi-exit model alone, profiled on the first core."""
    _proteus("init", str(root))
    (root / "proteus.toml").write_text(f"[devices]\ncpu = [[{usable_cores()[0]}]]\n")
    (root / "engines" / "catalog.toml").unlink()
    paths = [str(root / "engines" / name) for name in (MODEL, EVAL)]
    _proteus("catalog", "split", FAMILY, paths[0], "--at", CUTS, "--slo", "100ms", "--eval", paths[1], "-w", str(root))
    _proteus("profile", "-w", str(root), "--max-batch", "1", "--accept-noise")
    return Workspace(root)


def samples_of(runner: ExitRunner, rows: NamedArrays, labels: Ints) -> Samples:
    """What each exit makes of each row, without bounds."""
    exits = runner.infer(rows)[EXIT_NOTE].astype(np.int64)
    right = [next(iter(each.outputs.values())).argmax(axis=1) == labels for each in runner.passed(rows)]
    return Samples(exits, np.array(right))


def served(runner: ExitRunner, rows: NamedArrays, exits: tuple[ExitProfile, ...], count: int) -> Requests:
    """Run requests one after another, each within its own bound."""
    rng = np.random.default_rng(SEED)
    p95_s = [each.points[0].p95_s for each in exits]
    sample = rng.integers(0, len(next(iter(rows.values()))), count)
    bound_s = rng.uniform(p95_s[0], LONGEST * sum(p95_s), count)
    took_s, answered = np.empty(count), np.empty(count, np.int64)
    for place in range(count):
        inputs = {name: values[sample[place] : sample[place] + 1] for name, values in rows.items()}
        start_s = time.monotonic()
        outputs = runner.infer(inputs, ExitBounds([start_s + bound_s[place]], [1], exits))
        took_s[place], answered[place] = time.monotonic() - start_s, outputs[EXIT_NOTE][0]
    return Requests(sample, bound_s, took_s, answered)


def _proteus(*arguments: str) -> None:
    subprocess.run((sys.executable, "-m", "proteus_cli", *arguments), check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
