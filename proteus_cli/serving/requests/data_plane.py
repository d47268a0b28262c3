"""All that requests pass through, put together: each part is made of parts before it."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np

from proteus_cli.backends.free_memory import HostMemory
from proteus_cli.control.controller import Controller
from proteus_cli.control.devices.slowness import Drift
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import Profile
from proteus_cli.serving.devices.executor import OpenExecutor
from proteus_cli.serving.fleet.fleet import TIMER_RESOLUTION_S, Fleet
from proteus_cli.serving.fleet.model_files import ModelFiles
from proteus_cli.serving.fleet.worker import Clock, Workers
from proteus_cli.serving.lifecycle import Lifecycle
from proteus_cli.serving.requests.admission import Admission, RequestWatch
from proteus_cli.serving.requests.answers.answer_log import AnswerLog
from proteus_cli.serving.requests.answers.second_stages import Confidence, SecondStages
from proteus_cli.serving.requests.counts import RequestCounts
from proteus_cli.serving.requests.families import Families, ServedFamily
from proteus_cli.serving.requests.results import Results
from proteus_cli.serving.requests.samples.capture import SampleCapture
from proteus_cli.serving.requests.samples.writer import SampleWriter
from proteus_cli.serving.requests.version_arms import VersionArms


@dataclass(frozen=True, slots=True)
class DataPlane:
    """The way of a request: `admission`, the queues of the ``controller``, a worker of the ``fleet``, ``results``.

    ``arms`` of the versions that are rolled out now, by family: roll-outs write them, admission reads them.
    """

    controller: Controller
    lifecycle: Lifecycle
    families: Families
    counts: RequestCounts
    results: Results
    workers: Workers
    fleet: Fleet
    admission: Admission
    clock: Clock
    is_emulated: bool
    samples: SampleCapture | None
    answers: AnswerLog | None
    arms: dict[str, VersionArms]

    def use_families(self, served: Sequence[ServedFamily], planned: Iterable[str]) -> None:
        """From now on these are all families, in one step; plans are made for the ``planned`` ones.

        Families that are left out are forgotten. Raises `ValueError` where one of them is hosted, or has requests.
        """
        slo_s = {family.name: family.slo_s for family in served}
        gone = [name for name in self.families.by_name if name not in slo_s]
        self.controller.use_families(slo_s, {family.name: family.attainment for family in served}, planned)
        self.counts.use_families(served)
        self.fleet.loader.use_signatures({family.name: family.signature for family in served})
        if self.answers is not None and gone:
            self.answers.forget(gone)
        if self.samples is not None and gone:
            self.samples.forget(gone)
        self.families.offer(served)


@dataclass(frozen=True, slots=True)
class DataPlaneOptions:
    """How requests are treated: ``refuses_non_finite`` and ``max_timeout_s`` as in `Admission`.

    Where it ``tunes_slots``, batches of devices of several slots are watched. Answers are kept for ``keep_answers_s``;
    0: none is.
    """

    refuses_non_finite: bool = False
    max_timeout_s: float = inf
    is_emulated: bool = False
    timer_s: float = TIMER_RESOLUTION_S
    tunes_slots: bool = False
    keep_answers_s: float = 0.0


def make_data_plane(
    controller: Controller,
    served: Sequence[ServedFamily],
    devices: Iterable[str],
    open_device: OpenExecutor,
    clock: Clock,
    *,
    models: Mapping[VariantKey, Path],
    profiles: Mapping[str, Profile],
    files: ModelFiles | None = None,
    memory_of: Callable[[str], HostMemory] = lambda _: HostMemory(),
    drift: Drift | None = None,
    confidence: Confidence | None = None,
    sample_writer: SampleWriter | None = None,
    watch: RequestWatch | None = None,
    options: DataPlaneOptions = DataPlaneOptions(),
) -> DataPlane:
    """Open all devices, which host nothing yet. Raises `DeviceUnavailable`.

    ``confidence`` of first stages; None: as their outputs tell. Requests are captured where there is a
    ``sample_writer``; ``watch`` looks at some.
    """
    controller.placeable.use(profiles, models)
    lifecycle = Lifecycle()
    families, counts = Families(served, controller, lifecycle), RequestCounts(served)
    computed, workers = Confidence(families.by_name), Workers()
    results = Results(
        counts, clock, drift=drift, refuses_non_finite=options.refuses_non_finite, is_emulated=options.is_emulated,
        second_stages=SecondStages(controller, confidence or computed, workers),
        min_timeout_s=controller.dispatch.min_timeout_s,
    )  # fmt: skip
    fleet = Fleet(
        controller, workers, devices, open_device, results, clock, models=models, profiles=profiles,
        signatures={family.name: family.signature for family in served}, files=files, timer_s=options.timer_s,
        memory_of=memory_of, tunes_slots=options.tunes_slots,
    )  # fmt: skip
    samples = _samples(sample_writer, families, computed) if sample_writer is not None else None
    answers = None
    if options.keep_answers_s:
        answers = AnswerLog(options.keep_answers_s, clock, samples.superseded if samples is not None else None)
    arms = dict[str, VersionArms]()
    admission = Admission(
        families, controller, lifecycle, workers, results, counts, clock,
        refuses_non_finite=options.refuses_non_finite, max_timeout_s=options.max_timeout_s,
        answers=answers, samples=samples, watch=watch, arms=arms,
    )  # fmt: skip
    return DataPlane(
        controller, lifecycle, families, counts, results, workers, fleet, admission, clock, options.is_emulated,
        samples, answers, arms,
    )  # fmt: skip


def _samples(writer: SampleWriter, families: Families, confidence: Confidence) -> SampleCapture:
    rng = np.random.default_rng()
    return SampleCapture(writer.settings.share, writer, families.by_name, confidence.of, time.time, rng)
