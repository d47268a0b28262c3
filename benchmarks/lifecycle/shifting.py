"""How many rows it takes until a shift is noticed without labels, with real models on real rows.

The eval splits of the sample zoo stand for all rows that there are. By a seed, as many rows as a split has are drawn
from it: what `proteus profile` would know. Others are drawn for what comes: as they are, which must raise no alarm, or
spoilt by noise or, where rows are images, turned. A variant of medium size tells confidences, and how much is lost.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import rotate

from benchmarks.tables import UNKNOWN, Aim, Table
from proteus_cli.arrays import Bools, Floats
from proteus_cli.backends.base import NamedArrays, Runner
from proteus_cli.backends.discovery import discover
from proteus_cli.backends.registry import open_backend
from proteus_cli.control.alarms import SHIFT_ALARM_ROWS, ShiftWatch
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.stages.cascade import margin
from proteus_cli.serving.adaptation.shifts import RowSummary
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace
from proteus_cli.store.eval_splits import labelled_rows

Values = npt.NDArray[Any]
Spoil = Callable[[Values], Values]

SEEDS, ROWS = 100, 1_000
QUIET_ROWS = 5_000
MAX_ROWS, AT_ONCE = 2_000, 128
NOISE, DEGREES = (0.05, 0.1, 0.25, 0.5, 1.0), (15.0, 30.0, 60.0)
"""In standard deviations of the rows; of images, to the left."""
MIN_LOSS, WITHIN_PERCENT, MAX_ALARMS = 0.05, 95.0, 0.01


@dataclass(frozen=True)
class Judged:
    """Rows as the server looks at them: numbers of the inputs, confidences, and which were answered rightly."""

    summaries: Floats
    confidences: Floats
    right: Bools


@dataclass(frozen=True)
class Noticed:
    """A family whose rows are spoilt; by seed, the rows until that showed in inputs or confidences, None: never."""

    family: str
    how: str
    loss: float
    by_inputs: Sequence[int | None]
    by_confidence: Sequence[int | None]

    @property
    def by_either(self) -> list[float]:
        pairs = zip(self.by_inputs, self.by_confidence, strict=True)
        return [min(math.inf if each is None else each for each in pair) for pair in pairs]

    @property
    def within_percent(self) -> float:
        return _percent(None if math.isinf(each) else each for each in self.by_either)


@dataclass(frozen=True)
class Quiet:
    """False alarms of a family, by seed, of inputs and of confidences, in `QUIET_ROWS` rows as they are."""

    family: str
    alarms: Sequence[tuple[int, int]]


def measured(place: Workspace, seeds: int) -> tuple[list[Noticed], list[Quiet]]:
    """For all families of a workspace with an eval split."""
    noticed, quiet, (device, *_) = list[Noticed](), list[Quiet](), discover(read_settings(place.root).devices)
    for family in place.catalog().families:
        split = place.eval_path(family)
        if split is None:
            continue
        variant = family.variants[len(family.variants) // 2 - 1]
        with open_backend(device).runner(place.loaded_paths()[VariantKey(family.name, variant.name)]) as runner:
            rows, labels = labelled_rows(split, runner.signature.inputs)
            rows, labels = {name: each[:MAX_ROWS] for name, each in rows.items()}, labels[:MAX_ROWS]
            clean = _judged(runner, rows, labels)
            quiet.append(Quiet(family.name, [_alarms(clean, seed) for seed in range(seeds)]))
            for how, spoil in _ways(rows):
                spoilt = _judged(runner, {name: spoil(each) for name, each in rows.items()}, labels)
                found = [_rows_until(clean, spoilt, seed) for seed in range(seeds)]
                loss = float(clean.right.mean() - spoilt.right.mean())
                noticed.append(Noticed(family.name, how, loss, *map(list, zip(*found, strict=True))))
    return noticed, quiet


def _ways(rows: NamedArrays) -> Iterator[tuple[str, Spoil]]:
    rng = np.random.default_rng(0)
    for strength in NOISE:
        yield f"noise of {strength:g} σ", partial(_noisy, rng, strength)
    if all(_axes(each) is not None for each in rows.values()):
        for degrees in DEGREES:
            yield f"turned by {degrees:g}°", partial(_turned, degrees)


def _noisy(rng: np.random.Generator, strength: float, values: Values) -> Values:
    found: Values = (values + strength * values.std() * rng.standard_normal(values.shape)).astype(values.dtype)
    return found


def _turned(degrees: float, values: Values) -> Values:
    found: Values = rotate(values, degrees, axes=_axes(values) or (-2, -1), reshape=False, order=1)
    return found


def _axes(values: npt.NDArray[Any]) -> tuple[int, int] | None:
    """Those of the height and width of images; None where rows are none."""
    sides = [axis for axis in range(1, values.ndim) if values.shape[axis] > 4]
    return (sides[0], sides[1]) if len(sides) == 2 else None


def _judged(runner: Runner, rows: NamedArrays, labels: npt.NDArray[np.int64]) -> Judged:
    starts = range(0, len(labels), AT_ONCE)
    parts = [runner.infer({name: each[at : at + AT_ONCE] for name, each in rows.items()}) for at in starts]
    scores = np.concatenate([next(iter(part.values())) for part in parts])
    summary = RowSummary(runner.signature.inputs)
    summaries = summary.of([rows[spec.name] for spec in runner.signature.inputs])
    return Judged(summaries, margin(scores).astype(np.float64)[:, np.newaxis], scores.argmax(axis=1) == labels)


def _watches(clean: Judged, rng: np.random.Generator) -> tuple[ShiftWatch, ShiftWatch]:
    """With a reference that is drawn."""
    names = tuple(str(number) for number in range(clean.summaries.shape[1]))
    known = rng.integers(len(clean.right), size=len(clean.right))
    return ShiftWatch(names, clean.summaries[known]), ShiftWatch(("confidence",), clean.confidences[known])


def _rows_until(clean: Judged, spoilt: Judged, seed: int) -> tuple[int | None, int | None]:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(clean.right), size=ROWS)
    watches = zip(_watches(clean, rng), (spoilt.summaries, spoilt.confidences), strict=True)
    by_inputs, by_confidence = (
        next((place for place, row in enumerate(values[drawn], 1) if watch.observe(row)), None)
        for watch, values in watches
    )
    return by_inputs, by_confidence


def _alarms(clean: Judged, seed: int) -> tuple[int, int]:
    rng = np.random.default_rng(1_000_000 + seed)
    drawn = rng.integers(len(clean.right), size=QUIET_ROWS)
    inputs, confidences = _watches(clean, rng)
    return (
        sum(inputs.observe(row) and inputs.is_shifted for row in clean.summaries[drawn]),
        sum(confidences.observe(row) and confidences.is_shifted for row in clean.confidences[drawn]),
    )


def tables(noticed: Sequence[Noticed], quiet: Sequence[Quiet]) -> list[Table]:
    columns = (
        "family", "spoilt by", "loss, points", "noticed, %", "by inputs", "confidence", "rows: median", "95 %",
    )  # fmt: skip
    rows = tuple(
        (
            each.family, each.how, f"{100 * each.loss:.1f}", f"{each.within_percent:.0f}",
            f"{_percent(each.by_inputs):.0f}", f"{_percent(each.by_confidence):.0f}", _rows(each.by_either, 50),
            _rows(each.by_either, 95),
        )
        for each in noticed
    )  # fmt: skip
    alarms = tuple(
        (each.family, *(f"{np.mean(column):.3f}" for column in zip(*each.alarms, strict=True))) for each in quiet
    )
    return [
        Table(f"Rows without labels until a shift is noticed, within {ROWS:,}", columns, rows),
        Table(f"False alarms in {QUIET_ROWS:,} rows as they are, mean", ("family", "inputs", "confidence"), alarms),
    ]


def _percent(found: "Iterator[float | None] | Sequence[int | None]") -> float:
    kept = list(found)
    return 100 * sum(each is not None for each in kept) / len(kept)


def _rows(found: Sequence[float], percent: float) -> str:
    rows = float(np.percentile(found, percent, method="higher"))
    return f"{rows:.0f}" if math.isfinite(rows) else UNKNOWN


def aims(noticed: Sequence[Noticed], quiet: Sequence[Quiet]) -> list[Aim]:
    """What issue and docs promise."""
    large = [each.within_percent for each in noticed if each.loss >= MIN_LOSS]
    alarms = [sum(pair) for each in quiet for pair in each.alarms]
    what = f"shifts that cost {100 * MIN_LOSS:g} points and more, noticed within {ROWS:,} rows without labels"
    promised = f"false alarms in {QUIET_ROWS:,} rows (promised: one in {SHIFT_ALARM_ROWS:,} at most)"
    return [
        Aim(what, min(large), WITHIN_PERCENT, "% of seeds", is_most=False),
        Aim(promised, float(np.mean(alarms)), MAX_ALARMS, "in the mean", is_most=True),
    ]
