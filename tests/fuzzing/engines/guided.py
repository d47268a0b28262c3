"""The engine that is guided by coverage, Atheris: ``python -m fuzzing.engines.guided TARGET SECONDS FOLDER``.

Besides new branches, an input is interesting to libFuzzer when it costs twice as much as any before: `levels` has a
branch for each power of two of memory and time.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import atheris
from fuzzing.session import Session, bound_memory, mutated
from fuzzing.targets.table import open_target
from fuzzing.watch import MAX_INPUT_BYTES

_PLAIN_FRAC = 0.15  # mutations that libFuzzer makes, which know no format
_SEED_FRAC = 0.3  # mutations of a seed instead, as libFuzzer drifts to small inputs
_SLOWEST_INPUT_S = 300  # with instrumentation, on a machine with other work
_LEVELS = 32
_MIB, _MS = 2**20, 1e-3


def levels() -> Callable[[int], int]:
    """A function that takes another branch for each level."""
    lines = [f"    if level >= {level}: reached = {level}" for level in range(1, _LEVELS)]
    source = "\n".join(["def levels(level):", "    reached = 0", *lines, "    return reached"])
    made: dict[str, Callable[[int], int]] = {}
    exec(source, made)  # noqa: S102 - a branch for each level is what is wanted
    instrumented: Callable[[int], int] = atheris.instrument_func(made["levels"])
    return instrumented


def main(name: str, seconds: str, folder: str) -> None:
    with atheris.instrument_imports(include=["proteus_cli"]):
        target = open_target(name)
    bound_memory()
    session, place, seeds = Session(target, Path(folder)), Path(folder), [*target.seeds().values()]
    of_memory, of_time = levels(), levels()

    def play(content: bytes) -> None:
        cost = session.play(content)
        of_memory((cost.peak_bytes // _MIB).bit_length())
        of_time(int(cost.hold_s / _MS).bit_length())

    def mutate(content: bytes, max_size: int, seed: int) -> bytes:
        rng = Random(seed)
        if rng.random() < _PLAIN_FRAC:
            return bytes(atheris.Mutate(content, max_size))
        return mutated(target, rng.choice(seeds) if rng.random() < _SEED_FRAC else content, rng)

    options = [
        f"-max_total_time={seconds}", f"-max_len={MAX_INPUT_BYTES}", f"-timeout={_SLOWEST_INPUT_S}",
        "-len_control=0", "-keep_seed=1", "-use_counters=0", "-rss_limit_mb=0",
        f"-artifact_prefix={place}/found/native-", str(place / "inputs"),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], play, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
