"""Samples at even distances, in bounded memory, while a study runs."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from proteus_cli.domain.device import Device
from proteus_cli.studies.study import Telemetry
from proteus_cli.studies.telemetry import cores, gpus, process_tree
from proteus_cli.studies.telemetry.counters import Reading, measures

EVERY_S = 0.5
MAX_SAMPLES = 480
"""Of each measure; an even number, so that neighbours can be merged."""

Read = Callable[[], Reading]


def reader(devices: Sequence[Device]) -> Read:
    """What reads all counters of this machine, with the GPUs among ``devices``."""
    watched = gpus.watched_gpus(devices)

    def read() -> Reading:
        at_s = time.monotonic()
        (own_totals, own_levels), (totals, levels) = process_tree.totals_and_levels(), cores.totals_and_levels()
        return Reading(at_s, {**own_totals, **totals}, {**own_levels, **levels, **gpus.levels(watched)})

    return read


class TelemetrySamples:
    """Samples of measures at even distances; of `MAX_SAMPLES`, neighbours are merged, and the distance doubles.

    One thread may add samples while another one asks for all: what it gets is of one moment.
    """

    def __init__(self, begun_unix_s: float, every_s: float = EVERY_S) -> None:
        self._begun_unix_s = begun_unix_s
        self._taken: tuple[tuple[Mapping[str, float], ...], float] = (), every_s
        """The samples and their distance, replaced together."""

    def due_s(self) -> float:
        """Seconds from the beginning until the next sample."""
        samples, every_s = self._taken
        return every_s * (len(samples) + 1)

    def add(self, sample: Mapping[str, float], at_s: float) -> None:
        """Add the next sample, taken that long after the beginning: late, it stands for those that were missed, too."""
        while True:
            samples, every_s = (*self._taken[0], sample), self._taken[1]
            if len(samples) == MAX_SAMPLES:
                samples = tuple(_mean(pair) for pair in zip(samples[::2], samples[1::2], strict=True))
                every_s *= 2
            self._taken = samples, every_s
            if self.due_s() > at_s:
                return

    def telemetry(self) -> Telemetry:
        """All samples; None where the system did not say a measure."""
        samples, every_s = self._taken
        names = dict.fromkeys(name for sample in samples for name in sample)
        columns = {name: tuple(sample.get(name) for sample in samples) for name in names}
        return Telemetry(self._begun_unix_s, every_s, columns)


def _mean(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each measure, over the samples that have it."""
    names = dict.fromkeys(name for sample in samples for name in sample)
    found = {name: [sample[name] for sample in samples if name in sample] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


class Watch:
    """Samples counters in a thread; tells the load of a span of time, too."""

    def __init__(self, read: Read, every_s: float = EVERY_S) -> None:
        self._read, self._stopped = read, threading.Event()
        self._samples = TelemetrySamples(time.time(), every_s)
        self._first = self._last = read()
        self._spans: list[_Span] = []
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._sample, name="telemetry", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def stop(self) -> None:
        """End the thread. Raises what ended it before, if anything did."""
        self._end()
        if self._failure is not None:
            raise self._failure

    def stop_after(self, error: BaseException) -> None:
        """End the thread, as an error ends the study; what ended it before is noted there."""
        self._end()
        if self._failure is not None:
            error.add_note(f"telemetry had ended before that: {self._failure!r}")

    def _end(self) -> None:
        self._stopped.set()
        self.join()

    def telemetry(self) -> Telemetry:
        """The samples so far."""
        return self._samples.telemetry()

    @contextmanager
    def load(self) -> Iterator[dict[str, float]]:
        """The mean of each measure during the block, filled in at its end."""
        found: dict[str, float] = {}
        before, span = self._read(), _Span()
        self._spans.append(span)
        try:
            yield found
        finally:
            self._spans.remove(span)
            after = self._read()
            span.add(after.levels)
            found |= measures(before, Reading(after.at_s, after.totals, span.means()))

    def _sample(self) -> None:
        try:
            while not self._stopped.wait(max(0.0, self._first.at_s + self._samples.due_s() - time.monotonic())):
                now = self._read()
                self._samples.add(measures(self._last, now), now.at_s - self._first.at_s)
                for span in tuple(self._spans):
                    span.add(now.levels)
                self._last = now
        except Exception as error:  # noqa: BLE001 - `stop` raises it, in the thread that waits for this one
            self._failure = error


class _Span:
    """Sums of levels."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, levels: Mapping[str, float]) -> None:
        for name, level in levels.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + level, count + 1

    def means(self) -> dict[str, float]:
        return {name: total / count for name, (total, count) in self._sums.items()}


@contextmanager
def watching(devices: Sequence[Device]) -> Iterator[Watch]:
    """A watch that samples during the block. What ends the block counts, and else what ended the sampling."""
    watch = Watch(reader(devices))
    watch.start()
    try:
        yield watch
    except BaseException as error:
        watch.stop_after(error)
        raise
    watch.stop()
