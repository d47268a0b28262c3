"""The thread that writes samples to files, and keeps their space and age bounded."""

import contextlib
import logging
import queue
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from proteus_cli.arrays import Singles
from proteus_cli.backends.base import TensorSpec
from proteus_cli.buffers import Buffer
from proteus_cli.errors import ProteusError
from proteus_cli.serving.logs import LogRateLimiter, fields
from proteus_cli.store.samples.chunk import (
    NO_CLASS,
    Chunk,
    SampledRequest,
    SampledTensor,
    encoded_chunk,
    encoded_labels,
)
from proteus_cli.store.samples.directory import CHUNK, LABELS, SampleSpace, write_samples

log = logging.getLogger("proteus.samples")

LARGEST_BYTES = 16 * 2**20
"""The most bytes of the inputs of a captured request."""
HELD_BYTES, HELD_ITEMS = 64 * 2**20, 4096
"""The most inputs that wait for their answer, or to be written; more are dropped."""
CHUNK_BYTES, CHUNK_ITEMS = 4 * 2**20, 256
"""The bytes of inputs, or the requests, that make a full file."""
CHUNK_S = 10.0
"""The longest that a sample waits to be written: the loss of a server that is killed."""
LOOK_S = 1.0
"""Between two looks whether a file is due."""
AGE_LOOK_S = 60.0
"""Between two looks for files that are too old."""
CLOSE_S = 5.0
"""The longest that a server waits for the last files when it stops."""


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """The directory of samples of a ``share`` of all requests: ``space_bytes`` at most, for ``keep_s``."""

    directory: Path
    share: float
    space_bytes: int
    keep_s: float


@dataclass(frozen=True, slots=True)
class Captured:
    """A request that was answered."""

    family: str
    number: int
    id: str | None
    unix_s: float
    variant: str
    rows: int
    inputs: tuple[Buffer, ...]
    size: int
    specs: Sequence[TensorSpec]
    classes: tuple[int | None, ...]
    confidences: Singles


@dataclass(frozen=True, slots=True)
class CapturedLabels:
    """Labels of a captured request, one for each row."""

    family: str
    number: int
    labels: tuple[int | None, ...]
    size: int = 0


@dataclass(slots=True)
class _Open:
    """The next file of a family; ``size`` counts the bytes of all ``items``."""

    since_s: float
    items: list[Captured] = field(default_factory=list)
    labels: dict[int, tuple[int | None, ...]] = field(default_factory=dict)
    size: int = 0

    def add(self, item: Captured) -> None:
        self.items.append(item)
        self.size += item.size

    @property
    def is_full(self) -> bool:
        return self.size >= CHUNK_BYTES or len(self.items) >= CHUNK_ITEMS or len(self.labels) >= CHUNK_ITEMS


class SampleWriter:
    """Takes samples from the event loop, in O(1), and writes them in a thread. ``run`` names the files of this server.

    ``space`` knows the files of the directory. Unexpected errors in the thread are logged and counted, and it goes on.
    """

    def __init__(self, settings: SampleSettings, unix_clock: Callable[[], float]) -> None:
        self.settings, self._clock = settings, unix_clock
        self.run = secrets.token_hex(4)
        self._queue = queue.SimpleQueue[Captured | CapturedLabels | None]()
        self._open: dict[str, _Open] = {}
        self._number = 0
        self._looked_s = -np.inf
        self._limiter = LogRateLimiter(unix_clock)
        self._in = self._in_bytes = self._out = self._out_bytes = 0  # the first two are the loop's, others the thread's
        self._released = self._released_bytes = 0
        self.space = SampleSpace(settings.directory, settings.space_bytes)
        self.failed = Counter[str]()
        """Requests that could not be written, by family."""

    # --- for the event loop

    def has_room(self, size: int) -> bool:
        """Whether a sample of ``size`` bytes can be held until it is written."""
        held = self._in - self._out - self._released
        held_bytes = self._in_bytes - self._out_bytes - self._released_bytes
        return held < HELD_ITEMS and held_bytes + size <= HELD_BYTES

    def reserve(self, size: int) -> None:
        """A request was chosen: `put` it, or `release` what was reserved."""
        self._in += 1
        self._in_bytes += size

    def release(self, size: int) -> None:
        """A sample of ``size`` bytes is not going to be written."""
        self._released += 1
        self._released_bytes += size

    def put(self, item: Captured | CapturedLabels) -> None:
        """A sample that was reserved, or labels."""
        if isinstance(item, CapturedLabels):
            self.reserve(0)
        self._queue.put(item)

    def forget(self, families: Collection[str]) -> None:
        """Forget families that are gone: what could not be written of them is not told any more."""
        for family in families:
            self.failed.pop(family, None)

    # --- the thread

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write until the context is left, and then what is left."""
        thread = threading.Thread(target=self._work, name="samples", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._queue.put(None)
            thread.join(CLOSE_S)
            if thread.is_alive():
                log.error("gave up writing the last samples after %.0f s", CLOSE_S)

    def _work(self) -> None:
        while True:
            item: Captured | CapturedLabels | None = None
            is_over = False
            with contextlib.suppress(queue.Empty):
                item = self._queue.get(timeout=LOOK_S)
                is_over = item is None
            if item is not None:
                self._add(item)
            self.write_due(is_over=is_over)
            if is_over:
                return

    def _add(self, item: Captured | CapturedLabels) -> None:
        opened = self._open.setdefault(item.family, _Open(self._clock()))
        if isinstance(item, CapturedLabels):
            opened.labels[item.number] = item.labels
        else:
            if opened.items and opened.items[0].specs != item.specs:
                self._close(item.family)
                opened = self._open[item.family] = _Open(self._clock())
            opened.add(item)

    def write_due(self, *, is_over: bool = False) -> None:
        """Write the files that are full, or due by their age; all if ``is_over``."""
        now_s = self._clock()
        if now_s - self._looked_s >= AGE_LOOK_S:
            self._looked_s = now_s
            self._guarded(None, 0, self._look)
        due = [
            family
            for family, opened in self._open.items()
            if is_over or opened.is_full or now_s - opened.since_s >= CHUNK_S
        ]
        for family in due:
            self._close(family)

    def _close(self, family: str) -> None:
        """Write what a family has, its samples before their labels."""
        opened = self._open.pop(family)
        if opened.items:
            self._guarded(family, len(opened.items), lambda: self._write(family, CHUNK, _content(self.run, opened)))
        if opened.labels:
            labels = opened.labels
            self._guarded(family, 0, lambda: self._write(family, LABELS, encoded_labels(family, self.run, labels)))
        self._out += len(opened.items) + len(opened.labels)
        self._out_bytes += opened.size

    def _write(self, family: str, kind: str, content: bytes) -> None:
        self._make_room(len(content))
        self._number += 1
        now_s, directory = self._clock(), self.settings.directory
        self.space.add(write_samples(directory, family, self.run, self._number, now_s, kind, content))

    def _look(self) -> None:
        self.space.look()
        self._make_room(0)

    def _make_room(self, needed_bytes: int) -> None:
        self.space.make_room(needed_bytes, self._clock() - self.settings.keep_s)

    def _guarded(self, family: str | None, samples: int, act: Callable[[], None]) -> None:
        """Act; where that fails, as on a full disk, samples are lost, counted and logged, and the thread goes on."""
        try:
            act()
        except Exception as error:  # a bug of ours must not end the thread, nor pass unseen
            if family is not None:
                self.failed[family] += samples
            if not isinstance(error, OSError | ProteusError | ValueError):
                if times := self._limiter.occurred("bug"):
                    log.exception("a bug while samples were written", extra=fields(times=times))
            elif times := self._limiter.occurred("write"):
                reason = error.message if isinstance(error, ProteusError) else str(error)
                log.error("samples can't be kept: %s", reason, extra=fields(times=times))  # noqa: TRY400


def _content(run: str, opened: _Open) -> bytes:
    first, rows = opened.items[0], [each.rows for each in opened.items]
    inputs = tuple(SampledTensor(spec.name, spec.dtype.str, spec.sizes) for spec in first.specs)
    classes = [NO_CLASS if found is None else found for each in opened.items for found in _by_row(each)]
    chunk = Chunk(
        first.family,
        run,
        inputs,
        tuple(SampledRequest(each.number, each.id, each.unix_s, each.variant, each.rows) for each in opened.items),
        np.array(classes, np.int64),
        np.concatenate([each.confidences for each in opened.items]).astype(np.float32),
        tuple(
            np.frombuffer(b"".join(each.inputs[place] for each in opened.items), spec.dtype).reshape(
                sum(rows), *spec.sizes
            )
            for place, spec in enumerate(first.specs)
        ),
    )
    return encoded_chunk(chunk)


def _by_row(captured: Captured) -> tuple[int | None, ...]:
    return captured.classes or (None,) * captured.rows
