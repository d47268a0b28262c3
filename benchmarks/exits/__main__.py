"""Bounds on the multi-exit model of the sample zoo, on one core: 10,000 requests of one row; two minutes.

The model is split and profiled as users do it, and its most accurate operating point is hosted. Each request has a
bound on its latency, drawn evenly from the lowest that an answer of the first exit keeps to one and a half times what
the whole chain takes, both at the percentile of the family's attainment. A virtual core may be far slower for some
seconds than it was when it was profiled, as others use the machine: so there are rounds of 500 requests, and both are
measured anew before each. A tenth as many requests have less time, and are reported apart. Rows and bounds are drawn
with a seed.

The aims are of a quiet machine: of rounds in which other programs, and other virtual machines, took no more than 5 %
of all cores, and no more than one in 500 stages took over twice their median. Who only takes caches and memory from
outside a virtual machine is seen in no other way. Stages of all exits count, wherever requests stop, so rounds are not
chosen by what came of their requests. Others do not count, and more rounds are run in their place, up to five times as
many in all. What all requests met is printed, too.

Requests go through the controller, which lets them in or refuses them, and then through the chain, in one thread. There
is no network, and no other query. Behind each request, its batch goes through the whole chain: for an oracle that takes
the last exit in time of that very batch. Where even the first was too late, no policy keeps the bound: "possible" is
without these. A line for each aim; exits with 1 where one is missed.

`--emulated`: in virtual time, with the answers of the same model, on cores of four kinds, and with the times of the
very batch for the oracle. Nothing there depends on the machine; the aims are judged on the quiet core.

`--joining`: no requests; what it could bring, by the profile, if rows of several batches joined between exits.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from os import cpu_count
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

from benchmarks.exits import joining
from benchmarks.exits.emulated import CORES, STAGES_S, EmulatedChain, profile_of
from benchmarks.exits.judging import Requests, Samples, aims, ends_of, losses_of, together
from benchmarks.exits.serving import EngineChain, OneDevice, kept_s, run
from benchmarks.machine import machine
from benchmarks.tables import Aim, aim_line, table_lines
from proteus_cli.arrays import Ints
from proteus_cli.backends.affinity import pinned, usable_cores
from proteus_cli.backends.base import NamedArrays
from proteus_cli.backends.discovery import discover
from proteus_cli.backends.exits.runner import EXIT_NOTE, ExitRunner
from proteus_cli.backends.registry import open_backend
from proteus_cli.control.decision import Host
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace
from proteus_cli.store.eval_splits import labelled_rows
from proteus_cli.studies.telemetry import read_machine
from proteus_cli.variants.zoo import EXIT_SAMPLE

REQUESTS, QUICK, SEED = 10_000, 500, 2026
WARM_UP, PER_ROUND = 400, 500
KEY = VariantKey(EXIT_SAMPLE.family, "digits-exits-accurate")
LONGEST = 1.5
"""The longest bound, in times of the whole chain."""
OTHERS_FRAC, INTERRUPTED_FRAC, MAX_TIMES = 0.05, 0.002, 5
"""A round is quiet where others took no more of all cores, and no more of the stages took over twice their median; so
many times the rounds are run at most."""


@dataclass(frozen=True, slots=True)
class Round:
    """Requests, and those with too little time; what the first and the last exit keep, in seconds; the part of all
    cores that others took meanwhile, and that of all stages that were interrupted.
    """

    requests: Requests
    short: Requests
    kept_s: tuple[float, float]
    others_frac: float
    interrupted_frac: float

    @property
    def is_quiet(self) -> bool:
        return self.others_frac <= OTHERS_FRAC and self.interrupted_frac <= INTERRUPTED_FRAC


def main() -> int:
    """Measure, print times and aims; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} requests, to see that it works")
    parser.add_argument("--emulated", action="store_true", help="in virtual time, on emulated cores")
    parser.add_argument("--seed", type=int, default=SEED, help="of rows, bounds and emulated times")
    parser.add_argument("--joining", action="store_true", help="what it could bring if batches joined between exits")
    options = parser.parse_args()
    count = QUICK if options.quick else REQUESTS
    print(machine())
    with tempfile.TemporaryDirectory() as directory:
        place = workspace(Path(directory) / "ws")
        if options.joining:
            _proteus("profile", "-w", str(place.root), "--device", "cpu0", "--accept-noise")
            print(*table_lines(joining.table(place.profile("cpu0"))), sep="\n")
            return 0
        found = emulated(place, count, options.seed) if options.emulated else measured(place, count, options.seed)
    return 0 if all(aim.is_reached for aim in found) else 1


def measured(place: Workspace, count: int, seed: int) -> list[Aim]:
    """On the first core."""
    _proteus("profile", "-w", str(place.root), "--max-batch", "1", "--accept-noise")
    with runner_of(place) as runner:
        rows, labels = labelled_rows(place.root / EXIT_SAMPLE.eval, runner.signature.inputs)
        chain = EngineChain(runner, rows, len(STAGES_S))
        device = OneDevice(KEY, place.profile("cpu0"), place.catalog(), chain)
        samples, wanted = samples_of(runner, rows, labels), count // PER_ROUND
        run_rounds, quiet = list[Round](), list[Round]()
        for each in islice(rounds(device, samples, others_core_s, seed), MAX_TIMES * wanted):
            run_rounds.append(each)
            quiet += [each] if each.is_quiet else []
            if len(quiet) == wanted:
                break
    of_all = together([each.requests for each in run_rounds])
    others, interrupted = np.mean([(each.others_frac, each.interrupted_frac) for each in run_rounds], axis=0)
    print(f"{len(quiet)} of {len(run_rounds)} rounds were quiet; in all of them, in the mean, others took")
    print(f"{others:.1%} of the cores, and {interrupted:.2%} of the stages took over twice their median")
    print(f"all rounds: {of_all.within_percent:.2f} % in time, possible {of_all.possible_percent:.2f} %")
    enough = Aim("quiet rounds", len(quiet), wanted, "", is_most=False)
    print(aim_line(enough))
    return [enough, *(reported(device.host, samples, quiet) if quiet else ())]


def emulated(place: Workspace, count: int, seed: int) -> list[Aim]:
    """On emulated cores; the aims are those of the first."""
    with runner_of(place) as runner:
        samples = samples_of(runner, *labelled_rows(place.root / EXIT_SAMPLE.eval, runner.signature.inputs))
    found = []
    for core in CORES:
        print(f"\na {core.name} core:")
        chain = EmulatedChain(core, samples.stops_at, np.random.default_rng(seed))
        device = OneDevice(KEY, profile_of(chain, KEY), place.catalog(), chain)
        run_rounds = islice(rounds(device, samples, lambda: 0.0, seed), count // PER_ROUND)
        found.append(reported(device.host, samples, list(run_rounds)))
    return found[0]


def rounds(served: OneDevice, samples: Samples, others_s: Callable[[], float], seed: int) -> Iterator[Round]:
    """Serve rounds without end; ``others_s``: seconds that others have had of all cores, until now."""
    rng, few = np.random.default_rng(seed), PER_ROUND // 10
    while True:
        before_s, begun_s = others_s(), perf_counter()
        lowest_s, whole_s = kept_s(served, WARM_UP, served.host.attainment)
        sample = rng.integers(0, len(samples.stops_at), PER_ROUND)
        requests = run(served, sample, rng.uniform(lowest_s, LONGEST * whole_s, PER_ROUND))
        short = run(served, sample[:few], rng.uniform(0, lowest_s, few))
        others_frac = (others_s() - before_s) / ((perf_counter() - begun_s) * (cpu_count() or 1))
        yield Round(requests, short, (lowest_s, whole_s), others_frac, served.interrupted_frac())


def others_core_s() -> float:
    """Seconds of cores that other programs, and the host of a virtual machine, have had since it started."""
    totals = read_machine().totals
    return totals["machine_cores"] + totals["steal_cores"] - process_time()


def reported(host: Host, samples: Samples, quiet: Sequence[Round]) -> list[Aim]:
    """Print what came of the requests of these rounds, and the aims."""
    requests, below = together([each.requests for each in quiet]), together([each.short for each in quiet])
    lowest, wholes = zip(*(each.kept_s for each in quiet), strict=True)
    count, short = len(requests.sample), len(below.sample)
    print(f"stages take {_ms(*(each.points[0].mean_s for each in host.exits))} in the mean, one row")
    print(f"and {_ms(*(each.points[0].within_s(host.attainment) for each in host.exits))} in {host.attainment:.1%}")
    print(f"the first exit keeps {_ms(min(lowest))} to {_ms(max(lowest))} in rounds of {PER_ROUND}")
    print(f"and the last one {_ms(min(wholes))} to {_ms(max(wholes))}")
    shares = ", ".join(f"{100 * np.mean(requests.exit == exit_ + 1):.1f} %" for exit_ in range(len(host.exits)))
    print(f"answered by exits 1 to {len(host.exits)}: {shares}; accuracy {requests.accuracy_percent(samples):.2f} %")
    print(
        f"{count:,} requests: {ends_of(requests)}; {short:,} with less time than the first exit keeps: {ends_of(below)}"
    )
    print(losses_of(requests, samples))
    found = aims(requests, samples)
    for aim in found:
        print(aim_line(aim))
    return found


def workspace(root: Path) -> Workspace:
    """A workspace with the multi-exit model alone, on the first core."""
    sample = EXIT_SAMPLE
    _proteus("init", str(root))
    (root / "proteus.toml").write_text(f"[devices]\ncpu = [[{usable_cores()[0]}]]\n")
    (root / "engines" / "catalog.toml").unlink()
    made_of = ["--at", sample.at, "--slo", sample.slo, "--eval", str(root / sample.eval)]
    _proteus("catalog", "split", sample.family, str(root / sample.model), *made_of, "-w", str(root))
    return Workspace(root)


@contextmanager
def runner_of(place: Workspace) -> Iterator[ExitRunner]:
    """The chain, loaded on the first core, where this thread runs meanwhile."""
    (device,) = discover(read_settings(place.root).devices)
    path = place.loaded_paths()[KEY]
    with pinned(device.cores), open_backend(device).runner(path) as runner:
        assert isinstance(runner, ExitRunner)
        yield runner


def samples_of(runner: ExitRunner, rows: NamedArrays, labels: Ints) -> Samples:
    """What each exit makes of each row, without bounds."""
    exits = runner.infer(rows)[EXIT_NOTE].astype(np.int64)
    right = [next(iter(each.outputs.values())).argmax(axis=1) == labels for each in runner.passed(rows)]
    return Samples(exits, np.array(right))


def _ms(*times_s: float) -> str:
    return ", ".join(f"{1e3 * time_s:.3f}" for time_s in times_s) + " ms"


def _proteus(*arguments: str) -> None:
    subprocess.run((sys.executable, "-m", "proteus_cli", *arguments), check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
