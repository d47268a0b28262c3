"""Looks at some of the requests that were answered, and tells where they are no longer like the eval split."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import numpy as np

from proteus_cli.arrays import Floats
from proteus_cli.backends.base import OutputArrays
from proteus_cli.buffers import Buffer
from proteus_cli.control.alarms import MIN_REFERENCE_ROWS, ShiftWatch
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import ProteusError
from proteus_cli.serving.adaptation.catalog.served_catalog import ServedCatalog
from proteus_cli.serving.adaptation.profile_store import ProfileStore
from proteus_cli.serving.adaptation.shifts.references import References
from proteus_cli.serving.adaptation.shifts.summaries import RowSummary
from proteus_cli.serving.logs import fields
from proteus_cli.serving.requests.answers.second_stages import confidence_of
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.requests.in_flight import Answered, InFlightRequest, Result, ResultCallback

log = logging.getLogger("proteus.shifts")

RowReading = Callable[[], Floats | None]
InThread = Callable[[RowReading], Awaitable[Floats | None]]

EVERY_S = 0.2
"""Between two looks at requests of a family: at most 5 rows a second."""


class Shifts:
    """Watches the inputs of families, and the confidence of variants, from the first request that is looked at.

    What is None in ``inputs`` or ``confidence`` cannot be watched, or not yet: there is nothing to compare with.
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
        self._wanted: asyncio.Queue[ServedFamily | VariantKey] = asyncio.Queue()

    def admitted(self, request: InFlightRequest, served: ServedFamily, now_s: float) -> None:
        """A request that is to be looked at was admitted, and its tensors are read."""
        served.next_look_s = now_s + EVERY_S
        request.done = partial(self._ended, served, request.inputs, request.rows, request.done)

    def is_shifted(self, family: str) -> bool:
        """Whether its inputs are, or the confidence of one of its variants."""
        inputs = self.inputs.get(family)
        of_variants = (watch for key, watch in self.confidence.items() if key.family == family)
        return any(watch is not None and watch.is_shifted for watch in (inputs, *of_variants))

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
        """Read what is wanted to compare with, one after another, until cancelled."""
        while True:
            wanted = await self._wanted.get()
            if isinstance(wanted, VariantKey):
                await self._read_confidences(wanted)
            else:
                await self._read_inputs(wanted)

    # --- one answer

    def _ended(
        self, served: ServedFamily, inputs: tuple[Buffer, ...], rows: int, done: ResultCallback, result: Result
    ) -> None:
        done(result)
        if not isinstance(result, Answered):
            return
        row = int(self._rng.integers(rows))
        self._saw_inputs(served, inputs, rows, row)
        if result.batch.staged is None:
            self._saw_confidence(served, result.batch.hosted.key, result.outputs, row)

    def _saw_inputs(self, served: ServedFamily, inputs: tuple[Buffer, ...], rows: int, row: int) -> None:
        family = served.name
        watch = self.inputs.get(family)
        if watch is None:
            self._want(served, is_known=family in self.inputs)
            return
        specs = served.signature.inputs
        values = [
            np.frombuffer(content, spec.dtype).reshape(rows, -1)[row : row + 1]
            for content, spec in zip(inputs, specs, strict=True)
        ]
        if watch.observe(self._summaries[family].of(values)[0]):
            _log_change(f"inputs of {family}", watch, family)

    def _saw_confidence(self, served: ServedFamily, key: VariantKey, outputs: OutputArrays, row: int) -> None:
        watch = self.confidence.get(key)
        if watch is None:
            self._want(key, is_known=key in self.confidence)
            return
        confidence = confidence_of(served, outputs)[row : row + 1]
        if watch.observe(confidence.astype(np.float64)):
            _log_change(f"confidence of {key.variant}", watch, key.family, key.variant)

    def _want(self, what: ServedFamily | VariantKey, *, is_known: bool) -> None:
        """Have a reference read, once."""
        if is_known:
            return
        if isinstance(what, VariantKey):
            self.confidence[what] = None
        else:
            self.inputs[what.name] = None
        self._wanted.put_nowait(what)

    # --- references

    async def _read_inputs(self, served: ServedFamily) -> None:
        family, summary = served.name, RowSummary(served.signature.inputs)
        found = await self._read(
            f"inputs of {family}", lambda: self._references.inputs(family, served.signature, summary)
        )
        if found is not None and family in self.inputs:
            self._summaries[family] = summary
            self.inputs[family] = ShiftWatch(summary.names, found)

    async def _read_confidences(self, key: VariantKey) -> None:
        profiles = dict(self._profiles.alone)
        found = await self._read(f"confidence of {key.variant}", lambda: self._references.confidences(key, profiles))
        if found is not None and key in self.confidence:
            self.confidence[key] = ShiftWatch(("confidence",), found)

    async def _read(self, what: str, read: RowReading) -> Floats | None:
        """A reference; None where there is none, or it has too few rows."""
        content = self._served.content
        try:
            found = await self._in_thread(read)
        except ProteusError as error:
            log.info("the %s can't be watched: %s", what, error.message)
            return None
        except Exception:  # a bug of ours must not end the watch of all others, or pass unseen
            log.exception("a bug while what the %s are compared with was read", what)
            return None
        is_current = content is self._served.content  # else it is wanted once more
        return found if is_current and found is not None and len(found) >= MIN_REFERENCE_ROWS else None


def _log_change(what: str, watch: ShiftWatch, family: str, variant: str = "") -> None:
    seen = {"rows": watch.rows, "value": watch.largest, "ratio": round(watch.ratio, 2)}
    told = fields(family=family, variant=variant, **seen)
    if watch.is_shifted:
        text = "the %s: no longer distributed as on the eval split, by the %s of the last rows"
        log.warning(text, what, watch.largest, extra=told)
    else:
        log.info("the %s: distributed as on the eval split again", what, extra=told)
