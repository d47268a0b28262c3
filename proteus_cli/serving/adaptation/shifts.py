"""Shifts: rows are compared with the eval split, as labels may never come. The server tells a shift, and does no more.

One request of each family is looked at, at most every `EVERY_S`, once its answer has gone out. One of its rows is
enough, as rows of a request are alike. `RowSummary` makes a few numbers of the row's inputs: some moments, and random
projections. They are compared with the numbers of the eval split's rows. The confidence of a whole answer of one
variant is compared with the confidences that `proteus profile` has kept of it (`References`). `control/alarms.py`
decides.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from proteus_cli.arrays import Floats, Ints
from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.buffers import Buffer
from proteus_cli.control.alarms import MIN_REFERENCE_ROWS, ShiftWatch
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ProteusError
from proteus_cli.serving.adaptation.catalog_reading import ServedCatalog
from proteus_cli.serving.adaptation.plan_inputs import ProfileStore
from proteus_cli.serving.lifecycle import count_bug
from proteus_cli.serving.logs import fields
from proteus_cli.serving.requests.answers.second_stages import confidence_of
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.requests.in_flight import Answered, InFlightRequest, Observer, Result
from proteus_cli.store import Workspace
from proteus_cli.store.answers import read_answers
from proteus_cli.store.eval_splits import summaries_of_rows

MAX_INPUTS = 4
"""The most inputs of a model that are looked at."""
MAX_VALUES = 4096
"""The most values of an input. The places of a larger one are drawn once."""
PROJECTIONS = 8
"""The projections of all inputs together: sums with weights that are drawn once."""


class RowSummary:
    """Makes the numbers with these ``names`` of rows, of the eval split and of requests alike."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        looked_at = specs[:MAX_INPUTS]
        self._inputs = [_InputSummary(spec, PROJECTIONS // len(looked_at)) for spec in looked_at]
        self.names = tuple(
            f"{name} of {spec.name}" for spec, each in zip(looked_at, self._inputs, strict=True) for name in each.names
        )

    def of(self, rows: Sequence[npt.NDArray[np.generic]]) -> Floats:
        """Rows × numbers, of rows of each input in the order of the signature."""
        used = zip(self._inputs, rows, strict=False)
        return np.concatenate([each.of(values) for each, values in used], axis=1)


class _InputSummary:
    def __init__(self, spec: TensorSpec, projections: int) -> None:
        size = math.prod(spec.sizes)
        rng = np.random.default_rng(0)
        self._places = _pairs(size, rng) if size > MAX_VALUES else None
        count = min(size, MAX_VALUES)
        self._weights = rng.standard_normal((count, projections)) / math.sqrt(count) if count > 1 else None
        moments = ("mean", "deviation", "lowest", "highest", "roughness")
        self.names = (
            (*moments, *(f"projection {number}" for number in range(1, projections + 1))) if count > 1 else ("value",)
        )

    def of(self, rows: npt.NDArray[np.generic]) -> Floats:
        flat = rows.reshape(len(rows), -1)
        values: Floats = (flat if self._places is None else flat[:, self._places]).astype(np.float64)
        if self._weights is None:
            return values
        with np.errstate(all="ignore"):  # of values that are no numbers, or overflow
            rough = np.abs(values[:, 1::2] - values[:, : values.shape[1] - 1 : 2]).mean(axis=1)
            moments = values.mean(axis=1), values.std(axis=1), values.min(axis=1), values.max(axis=1), rough
            found: Floats = np.concatenate([np.stack(moments, axis=1), values @ self._weights], axis=1)
        return found


def _pairs(size: int, rng: np.random.Generator) -> Ints:
    """The places of `MAX_VALUES` values out of ``size``: pairs of neighbours, whose differences tell noise and blur."""
    first = 2 * np.sort(rng.choice(size // 2, MAX_VALUES // 2, replace=False))
    places: Ints = np.stack((first, first + 1), axis=1).reshape(-1)
    return places


MAX_ROWS = 2_000
"""The most rows of a reference, at equal distances."""


class References:
    """Reads references from a workspace. Both take a while, and run in any thread; both raise `ArtefactError`."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def inputs(self, family: str, signature: Signature, summary: RowSummary) -> Floats | None:
        """The numbers of rows of the eval split that the catalog names; None: it names none."""
        known = next((each for each in self._workspace.catalog().families if each.name == family), None)
        path = self._workspace.eval_path(known) if known is not None else None
        if path is None:
            return None
        return np.concatenate(summaries_of_rows(path, signature.inputs, MAX_ROWS, summary.of))

    def confidences(self, key: VariantKey, profiles: Mapping[str, Profile]) -> Floats | None:
        """The confidences of a variant, one a row, by the engine that it was profiled as; None: they are not known."""
        for device, profile in profiles.items():
            measured = profile.of(*key)
            if measured is None or measured.eval_digest is None or not measured.engine_digest:
                continue
            for path in {self._path(device), self._path(profile.measured_on)}:
                for each in read_answers(path).values():
                    if (each.engine_digest, each.eval_digest) == (measured.engine_digest, measured.eval_digest):
                        step = -(-len(each.confidences) // MAX_ROWS)
                        return each.confidences[::step, np.newaxis].astype(np.float64)
        return None

    def _path(self, device: str) -> Path:
        return self._workspace.answers_path(device)


log = logging.getLogger("proteus.shifts")

WatchedT = TypeVar("WatchedT", str, VariantKey)
RowReading = Callable[[], Floats | None]
InThread = Callable[[RowReading], Awaitable[Floats | None]]

EVERY_S = 0.2
"""Between two looks at requests of a family: at most 5 rows a second."""


class Shifts:
    """Watches the inputs of families, and the confidence of variants, from the first request that is looked at.

    A None in ``inputs`` or ``confidence`` has no reference, or none yet.
    """

    def __init__(
        self,
        profiles: ProfileStore,
        served: ServedCatalog,
        references: References,
        rng: np.random.Generator,
        in_thread: InThread = asyncio.to_thread,
    ) -> None:
        self._profiles, self._references, self._rng = profiles, references, rng
        self._in_thread = in_thread
        self._served, self._content = served, served.content
        self._summaries: dict[str, RowSummary] = {}
        self._inputs: dict[str, ShiftWatch | None] = {}
        self._confidence: dict[VariantKey, ShiftWatch | None] = {}
        self._wanted: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()

    def observer(self, request: InFlightRequest, served: ServedFamily, now_s: float) -> Observer:
        """Looks at a request that was admitted, and whose tensors are read, once it is answered."""
        served.next_look_s = now_s + EVERY_S
        return _Look(self, served, request)

    def is_shifted(self, family: str) -> bool:
        """Whether its inputs are, or the confidence of one of its variants."""
        of_variants = (watch for key, watch in self.confidence.items() if key.family == family)
        return any(watch is not None and watch.is_shifted for watch in (self.inputs.get(family), *of_variants))

    @property
    def inputs(self) -> dict[str, ShiftWatch | None]:
        """The watch of each family's inputs; with another catalog, watches begin anew."""
        self._follow_catalog()
        return self._inputs

    @property
    def confidence(self) -> dict[VariantKey, ShiftWatch | None]:
        """The watch of each variant's confidence; with another catalog, watches begin anew."""
        self._follow_catalog()
        return self._confidence

    def _follow_catalog(self) -> None:
        """Where another catalog is served, models or eval splits have changed: references are read anew."""
        if self._served.content is not self._content:
            self._content = self._served.content
            self._summaries.clear()
            self._inputs.clear()
            self._confidence.clear()

    async def run(self) -> None:
        """Read the references that are wanted, one after another, until cancelled."""
        while True:
            read = await self._wanted.get()
            await read()

    # --- one answer

    def look(self, served: ServedFamily, inputs: tuple[Buffer, ...], rows: int, result: Answered) -> None:
        """Compare a row of an answered request."""
        self._follow_catalog()
        row, family, specs = int(self._rng.integers(rows)), served.name, served.signature.inputs
        if family not in self._summaries:
            self._summaries[family] = RowSummary(specs)
        summary, what = self._summaries[family], f"inputs of {family}"
        read: RowReading = partial(self._references.inputs, family, served.signature, summary)
        if (watch := self._watch(self._inputs, family, what, summary.names, read)) is not None:
            values = [
                np.frombuffer(content, spec.dtype).reshape(rows, -1)[row : row + 1]
                for content, spec in zip(inputs, specs, strict=True)
            ]
            if watch.observe(summary.of(values)[0]):
                _log_change(what, watch, family)
        if result.batch.staged is not None:
            return
        key = result.batch.hosted.key
        what, read = (
            f"confidence of {key.variant}",
            partial(self._references.confidences, key, dict(self._profiles.alone)),
        )
        if (watch := self._watch(self._confidence, key, what, ("confidence",), read)) is not None:
            confidence = confidence_of(served, result.outputs)[row : row + 1]
            if watch.observe(confidence.astype(np.float64)):
                _log_change(what, watch, family, key.variant)

    def _watch(
        self,
        watches: dict[WatchedT, ShiftWatch | None],
        key: WatchedT,
        what: str,
        names: tuple[str, ...],
        read: RowReading,
    ) -> ShiftWatch | None:
        """The watch of a family or a variant. The first call has its reference read."""
        if key not in watches:
            watches[key] = None
            content = self._content

            async def begin() -> None:
                """Begin a watch, unless there is no reference, or too few rows of it."""
                try:
                    found = await self._in_thread(read)
                except ProteusError as error:
                    log.info("the %s can't be watched: %s", what, error.message)
                except Exception as error:  # noqa: BLE001 - it must not end the watch of all others
                    count_bug("Shifts.run", error)
                else:
                    is_current = content is self._served.content  # else it is wanted once more
                    if is_current and found is not None and len(found) >= MIN_REFERENCE_ROWS:
                        watches[key] = ShiftWatch(names, found)

            self._wanted.put_nowait(begin)
        return watches[key]


class _Look(Observer):
    __slots__ = ("_inputs", "_rows", "_served", "_shifts")

    def __init__(self, shifts: Shifts, served: ServedFamily, request: InFlightRequest) -> None:
        self._shifts, self._served, self._inputs, self._rows = shifts, served, request.inputs, request.rows

    def ended(self, result: Result | Exception) -> None:
        if isinstance(result, Answered):
            self._shifts.look(self._served, self._inputs, self._rows, result)


def _log_change(what: str, watch: ShiftWatch, family: str, variant: str = "") -> None:
    seen = {"rows": watch.rows, "value": watch.largest, "ratio": round(watch.ratio, 2)}
    told = fields(family=family, variant=variant, **seen)
    if watch.is_shifted:
        text = "the %s: no longer distributed as on the eval split, by the %s of the last rows"
        log.warning(text, what, watch.largest, extra=told)
    else:
        log.info("the %s: distributed as on the eval split again", what, extra=told)
