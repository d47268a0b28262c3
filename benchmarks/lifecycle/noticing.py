"""How many labelled rows it takes until a loss of accuracy is noticed, with real models on real rows.

Rows of the eval splits of the sample zoo are spoilt by noise, so much that a variant of medium size loses some points,
and drawn with a seed; labels are the true ones. Rows as they are, drawn as often, must raise no alarm: what is promised
is the accuracy on all of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.tables import UNKNOWN, Aim, Table
from proteus_cli.arrays import Bools, Ints
from proteus_cli.backends.base import NamedArrays, Runner
from proteus_cli.backends.discovery import discover
from proteus_cli.backends.registry import open_backend
from proteus_cli.control.alarms import LiveAccuracy
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace
from proteus_cli.store.eval_splits import labelled_rows

LOSSES = (0.03, 0.05, 0.1, 0.2)
"""Of accuracy: the noise is as strong as it takes."""
SEEDS, ROWS = 100, 1_000
QUIET_ROWS = 10_000
AT_ONCE, MAX_ROWS = 128, 1_000
STRONGEST, STEPS = 8.0, 10
"""Of the noise, in standard deviations of the rows, and of the search for it."""
WITHIN_PERCENT = 95.0
MAX_ALARMS = 1.0
"""In `QUIET_ROWS`: what the test promises at most, in the mean."""


@dataclass(frozen=True)
class Shift:
    """A family of which a variant has lost ``loss``; by seed, the rows until that was noticed, None: never."""

    family: str
    promised: float
    loss: float
    noticed: Sequence[int | None]

    @property
    def within_percent(self) -> float:
        return 100 * sum(each is not None for each in self.noticed) / len(self.noticed)

    def rows(self, percent: float) -> float:
        """The rows that so many of the seeds needed at most; infinite where fewer noticed it."""
        return float(
            np.percentile([np.inf if each is None else each for each in self.noticed], percent, method="higher")
        )


@dataclass(frozen=True)
class Quiet:
    """False alarms of a family, by seed, in `QUIET_ROWS` rows that are as promised."""

    family: str
    alarms: Sequence[int]


def measured(place: Workspace, seeds: int) -> tuple[list[Shift], list[Quiet]]:
    """For all families of a workspace with an eval split."""
    shifts, quiet, (device, *_) = list[Shift](), list[Quiet](), discover(read_settings(place.root).devices)
    for family in place.catalog().families:
        split = place.eval_path(family)
        if split is None:
            continue
        variant = family.variants[len(family.variants) // 2 - 1]
        with open_backend(device).runner(place.loaded_paths()[VariantKey(family.name, variant.name)]) as runner:
            rows, labels = labelled_rows(split, runner.signature.inputs)
            judge = Judge(runner, {name: values[:MAX_ROWS] for name, values in rows.items()}, labels[:MAX_ROWS])
            clean = judge.right(0.0)
            promised = float(clean.mean())
            quiet.append(Quiet(family.name, [_alarms(clean, promised, QUIET_ROWS, seed) for seed in range(seeds)]))
            for loss in LOSSES:
                spoilt = judge.right_at(promised - loss)
                noticed = [_noticed(spoilt, promised, seed) for seed in range(seeds)]
                shifts.append(Shift(family.name, promised, promised - float(spoilt.mean()), noticed))
    return shifts, quiet


class Judge:
    """Which rows a model answers rightly, as they are or with noise, which is drawn once."""

    def __init__(self, runner: Runner, rows: NamedArrays, labels: Ints) -> None:
        rng = np.random.default_rng(0)
        self._runner, self._rows, self._labels = runner, rows, labels
        self._noise = {name: rng.standard_normal(values.shape) * values.std() for name, values in rows.items()}

    def right(self, strength: float) -> Bools:
        """With noise of so many standard deviations."""
        spoilt = {name: (v + strength * self._noise[name]).astype(v.dtype) for name, v in self._rows.items()}
        starts = range(0, len(self._labels), AT_ONCE)
        parts = [self._runner.infer({name: v[at : at + AT_ONCE] for name, v in spoilt.items()}) for at in starts]
        scores = np.concatenate([next(iter(part.values())) for part in parts])
        found: Bools = scores.argmax(axis=1) == self._labels
        return found

    def right_at(self, accuracy: float) -> Bools:
        """With noise that leaves about that accuracy, by bisection of its strength."""
        low, high, found = 0.0, STRONGEST, self.right(0.0)
        for _ in range(STEPS):
            strength = (low + high) / 2
            found = self.right(strength)
            low, high = (strength, high) if found.mean() > accuracy else (low, strength)
        return found


def _noticed(right: Bools, promised: float, seed: int) -> int | None:
    live = LiveAccuracy()
    drawn = np.random.default_rng(seed).choice(right, ROWS)
    return next((place for place, each in enumerate(drawn.tolist(), 1) if live.observe(float(each), promised)), None)


def _alarms(right: Bools, promised: float, rows: int, seed: int) -> int:
    live = LiveAccuracy()
    drawn = np.random.default_rng(1_000_000 + seed).choice(right, rows)
    return sum(live.observe(float(each), promised) and live.is_lower for each in drawn.tolist())


def tables(shifts: Sequence[Shift], quiet: Sequence[Quiet]) -> list[Table]:
    columns = ("family", "promised", "loss, points", f"noticed within {ROWS:,} rows, %", "rows: median", "95 %")
    rows = tuple(
        (
            each.family, f"{each.promised:.4f}", f"{100 * each.loss:.1f}", f"{each.within_percent:.0f}",
            _rows(each.rows(50)), _rows(each.rows(95)),
        )
        for each in shifts
    )  # fmt: skip
    alarms = tuple((each.family, f"{np.mean(each.alarms):.2f}", str(max(each.alarms))) for each in quiet)
    return [
        Table("Labelled rows until a loss is noticed", columns, rows),
        Table(f"False alarms in {QUIET_ROWS:,} rows as promised", ("family", "mean", "most"), alarms),
    ]


def _rows(rows: float) -> str:
    return f"{rows:.0f}" if math.isfinite(rows) else UNKNOWN


def aims(shifts: Sequence[Shift], quiet: Sequence[Quiet]) -> list[Aim]:
    """What issue and docs promise."""
    large = [each for each in shifts if each.loss >= LOSSES[1] - 0.005]
    within, alarms = min(each.within_percent for each in large), [count for each in quiet for count in each.alarms]
    noticed = f"losses of 5 points and more, noticed within {ROWS:,} labelled rows"
    return [
        Aim(noticed, within, WITHIN_PERCENT, "% of seeds", is_most=False),
        Aim(f"false alarms in {QUIET_ROWS:,} rows", float(np.mean(alarms)), MAX_ALARMS, "in the mean", is_most=True),
    ]
