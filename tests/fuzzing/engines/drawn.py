"""The engine where Atheris is missing: Hypothesis, which steers to what costs more. Same arguments as `guided`."""

import sys
import time
from pathlib import Path
from random import Random

from fuzzing.session import Session, bound_memory, mutated
from fuzzing.targets.table import open_target
from hypothesis import HealthCheck, Phase, given, seed, settings, target
from hypothesis import strategies as st

_CASES_IN_ROUND = 500
_LARGEST_SEED = 2**32 - 1


def main(name: str, seconds: str, folder: str) -> None:
    fuzzed = open_target(name)
    bound_memory()
    stop_s = time.monotonic() + float(seconds)
    session, seeds = Session(fuzzed, Path(folder)), [*fuzzed.seeds().values()]

    @settings(
        max_examples=_CASES_IN_ROUND, deadline=None, database=None, phases=[Phase.generate, Phase.target],
        suppress_health_check=[*HealthCheck],
    )  # fmt: skip
    @given(st.sampled_from(seeds), st.lists(st.integers(0, _LARGEST_SEED), max_size=4))
    def play(content: bytes, mutations: list[int]) -> None:
        if session.cases and time.monotonic() > stop_s:
            return
        for number in mutations:
            content = mutated(fuzzed, content, Random(number))
        cost = session.play(content)
        target(float(cost.peak_bytes), label="memory")
        target(cost.hold_s, label="time")

    rounds = Random()
    while not session.cases or time.monotonic() < stop_s:
        seed(rounds.getrandbits(32))(play)()
    fuzzed.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
