"""The paper's experiments on its own data, synthetic traces, the gap to the oracle, and other arrivals; simulated.

The figures take half an hour, `arrivals` (`python -m benchmarks.arrivals`) another half. `ablation` (`python -m
benchmarks.ablation`), the worth of each rule of control, takes some three hours and runs only if `--parts` names it.
Parts that need `../shared/data/proteus-asplos24` beside the repository are left out without it, and the rest runs on a
synthetic cluster. Exits with 1 where an aim is missed.
"""

import argparse
import sys
from functools import cache

from benchmarks.ablation import ablation, add_rules
from benchmarks.arrivals import arrivals
from benchmarks.frame import Found, Part, Run, benchmark
from benchmarks.paper.figures import EXPERIMENTS, NEED_PAPER
from benchmarks.paper.lab import Lab
from benchmarks.worlds import PAPER
from proteus_cli.cli.console import loudness


@cache
def _lab(run: Run) -> Lab:
    """One for all parts, which share runs."""
    loudness.quiet = True
    return Lab(run.directory / "lab", run.is_quick)


def _part(name: str) -> Part:
    def measured(run: Run) -> Found:
        if name in NEED_PAPER and not PAPER.is_dir():
            return Found(remarks=(f"Skipped {name}: {PAPER} isn't there.",))
        run.say(name)
        return EXPERIMENTS[name](_lab(run))

    return measured


PARTS = {name: _part(name) for name in EXPERIMENTS} | {"arrivals": arrivals, "ablation": ablation}

if __name__ == "__main__":
    parser = add_rules(argparse.ArgumentParser(prog="python -m benchmarks.paper"))
    sys.exit(benchmark(__doc__, PARTS, usual=(*EXPERIMENTS, "arrivals"), rounds=1, parser=parser))
