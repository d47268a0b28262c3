"""The measures of a run, live or simulated: the report of its requests."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from proteus_cli.arrays import Bools, Floats, Ints
from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT, Attainment
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.report import (
    QUANTILES,
    DeviceSummary,
    FamilySummary,
    LatencySummary,
    Loss,
    Mode,
    Replan,
    Report,
    Summary,
    SwapsPerReplan,
    Window,
)
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.store import made_by

WINDOW_S = 10.0
SECOND_S = 1.0

_CODES = {outcome: code for code, outcome in enumerate(Outcome)}
_NAN = float("nan")
_UNKNOWN = -1  # the index of a device or a variant that is not known


@dataclass(frozen=True, slots=True, eq=False)
class RequestColumns:
    """Ended requests as arrays of one length; NaN where a value is unknown or the request was not answered.

    ``family`` indexes into ``families``, ``device`` into ``devices``, ``variant`` into ``variants`` (-1: unknown),
    ``outcome`` into the members of `Outcome`; ``relative`` is the accuracy divided by the best of the family.
    ``deferred``, ``fallback`` and ``cut`` as in `RequestRecord`; ``correct`` is 1 where the answer was right.
    """

    families: tuple[str, ...]
    devices: tuple[str, ...]
    variants: tuple[str, ...]
    family: Ints
    device: Ints
    variant: Ints
    outcome: Ints
    arrival_s: Floats
    latency_s: Floats
    accuracy: Floats
    relative: Floats
    batch: Floats
    deferred: Bools
    fallback: Bools
    cut: Bools
    correct: Floats

    @classmethod
    def of(
        cls,
        ended: Sequence[RequestRecord],
        best_accuracy: Mapping[str, float],
        *,
        families: Sequence[str] = (),
        devices: Sequence[str] = (),
    ) -> Self:
        """The columns of ``ended``; ``families`` and ``devices`` come first, others in order of appearance."""
        names, family = _coded([e.family for e in ended], families)
        hosts, device = _coded([e.device for e in ended], devices)
        variants, variant = _coded([e.variant for e in ended])
        best = np.array([best_accuracy.get(name) or _NAN for name in names], dtype=np.float64)
        outcome = np.array([_CODES[e.outcome] for e in ended], dtype=np.int64)
        answered = _answered(outcome)
        accuracy = _known([e.accuracy for e in ended], answered)
        return cls(
            families=names,
            devices=hosts,
            variants=variants,
            family=family,
            device=np.where(answered, device, _UNKNOWN),
            variant=np.where(answered, variant, _UNKNOWN),
            outcome=outcome,
            arrival_s=np.array([e.arrival_s for e in ended], dtype=np.float64),
            latency_s=_known([e.latency_s for e in ended], answered),
            accuracy=accuracy,
            relative=accuracy / best[family],
            batch=_known([e.batch for e in ended], answered),
            deferred=answered & np.array([e.is_deferred for e in ended], dtype=np.bool_),
            fallback=answered & np.array([e.is_fallback for e in ended], dtype=np.bool_),
            cut=answered & np.array([e.is_cut for e in ended], dtype=np.bool_),
            correct=_known([e.is_correct for e in ended], answered),
        )

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def answered(self) -> Bools:
        return _answered(self.outcome)

    @property
    def violating(self) -> Bools:
        """Whether each request was late, dropped or rejected, or has failed."""
        return np.not_equal(self.outcome, _CODES[Outcome.SERVED])

    def of_family(self, name: str) -> "RequestColumns":
        """The requests of one family."""
        return self._only(self.family == self.families.index(name))

    def by_device(self) -> Iterator[tuple[str, "RequestColumns"]]:
        """Each device, and the requests that it answered."""
        order = np.argsort(self.device, kind="stable")
        ends = np.searchsorted(self.device[order], np.arange(len(self.devices)), side="right")
        starts = np.searchsorted(self.device[order], np.arange(len(self.devices)), side="left")
        for name, start, end in zip(self.devices, starts.tolist(), ends.tolist(), strict=True):
            yield name, self._only(order[start:end])

    def _only(self, chosen: Bools | Ints) -> "RequestColumns":
        columns: dict[str, Any] = {
            name: column[chosen] for name in self.__slots__ if isinstance(column := getattr(self, name), np.ndarray)
        }
        return replace(self, **columns)


def report(
    ended: Sequence[RequestRecord],
    *,
    policy: str,
    mode: Mode,
    trace: str,
    duration_s: float,
    slo_s: Mapping[str, float],
    best_accuracy: Mapping[str, float],
    estimated: Collection[str] = (),
    attainment: Mapping[str, float] = MappingProxyType({}),
    devices: Sequence[str] = (),
    replans: Sequence[Replan] = (),
    generator_lag_s: float | None = None,
    interrupted: bool = False,
    noisy_cells: int | None = None,
    losses: Sequence[Loss] = (),
    profiled: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    expected_attainment: Mapping[str, float] = MappingProxyType({}),
) -> Report:
    """The report of one run of ``duration_s`` seconds.

    ``best_accuracy`` has the accuracy of the best variant by family. Relative accuracy is unknown for other families.
    ``estimated`` are the families with estimated accuracies. ``attainment`` has the target by family; other families
    have `DEFAULT_ATTAINMENT`. ``profiled`` are the accuracies of variants by family, where known;
    ``expected_attainment`` is what plans expected. Families with an SLO are reported even without requests, ``devices``
    even without answers.
    """
    columns = RequestColumns.of(ended, best_accuracy, families=tuple(slo_s), devices=devices)
    families = {
        name: family_summary(
            columns.of_family(name),
            duration_s,
            attainment.get(name, DEFAULT_ATTAINMENT),
            profiled.get(name, {}),
            expected_attainment.get(name),
        )
        for name in columns.families
    }
    return Report(
        **_fields(summary(columns, duration_s)),
        format=FORMAT,
        made_by=made_by(),
        policy=policy,
        mode=mode,
        trace=trace,
        duration_s=float(duration_s),
        slo_s=dict(slo_s),
        latency_quantiles_s=_quantiles(columns.latency_s),
        families=families,
        devices={name: device_summary(of_device) for name, of_device in columns.by_device()},
        windows=windows(columns, duration_s, WINDOW_S),
        seconds=windows(columns, duration_s, SECOND_S),
        replans=tuple(replans),
        generator_lag_s=generator_lag_s,
        interrupted=interrupted,
        estimated=tuple(name for name in slo_s if name in estimated),
        noisy_cells=noisy_cells,
        losses=tuple(losses),
        swaps_per_replan=_swaps_per_replan(replans),
    )


def _swaps_per_replan(replans: Sequence[Replan]) -> SwapsPerReplan | None:
    swaps = [replan.swaps for replan in replans]
    return SwapsPerReplan(sum(swaps) / len(swaps), max(swaps)) if swaps else None


def summary(columns: RequestColumns, duration_s: float) -> Summary:
    """The measures over some requests of a run of ``duration_s`` seconds.

    * SLO violation ratio: late, dropped, rejected and failed over all requests; 0 where there were none.
    * Effective accuracy: mean accuracy of the variants that answered, over answered queries (served or late).
      Relative accuracy: mean of accuracy / best accuracy of the query's family (the paper's normalised accuracy).
      Answers of unknown accuracy are left out of both.
    * Maximum accuracy drop: 100 - the lowest relative accuracy in percent over `windows` of 10 s with answers.
    * Throughput: answers over duration; goodput: answers on time over duration; 0 for a run of no duration.
    * Mean batch: over batches, recovered from requests: answers / Σ 1/batch, where each answer brought one row. The
      batch of an answer is the one that made it: a deferred query does not count for the first stage.
    """
    counts = np.bincount(columns.outcome, minlength=len(_CODES)).tolist()
    served, late, dropped, rejected, failed = counts
    requests = len(columns)
    return Summary(
        requests=requests,
        served=served,
        late=late,
        dropped=dropped,
        rejected=rejected,
        failed=failed,
        slo_violation_ratio=(requests - served) / requests if requests else 0.0,
        effective_accuracy=_mean(columns.accuracy),
        relative_accuracy=_mean(columns.relative),
        max_accuracy_drop=_max_accuracy_drop(windows(columns, duration_s, WINDOW_S)),
        throughput_qps=_rate(served + late, duration_s),
        goodput_qps=_rate(served, duration_s),
        mean_batch=_mean_batch(columns.batch),
        latency_s=_latency(columns.latency_s),
    )


def family_summary(
    columns: RequestColumns,
    duration_s: float,
    target: float,
    profiled: Mapping[str, float] = MappingProxyType({}),
    expected_attainment: float | None = None,
) -> FamilySummary:
    """The `summary` of one family's requests, their attainment beside its ``target``, what was deferred and cut short.

    ``profiled`` are the accuracies of its variants, where known.
    """
    found = summary(columns, duration_s)
    attainment = Attainment.of(found.requests, found.requests - found.served, target)
    deferred, fallbacks = (int(np.count_nonzero(each)) for each in (columns.deferred, columns.fallback))
    of_answers = _variants(columns)
    own = {name: profiled[name] for name in of_answers if name in profiled} if deferred else {}
    order = sorted(of_answers, key=lambda name: (-(own.get(name, of_answers[name]) or 0.0), name))
    return FamilySummary(
        **_fields(found),
        attainment=attainment,
        variants={name: of_answers[name] for name in order},
        deferred=deferred,
        fallbacks=fallbacks,
        profiled_accuracy={name: own[name] for name in order if name in own},
        judged=int(np.count_nonzero(~np.isnan(columns.correct))),
        measured_accuracy=_mean(columns.correct),
        cut=int(np.count_nonzero(columns.cut)),
        expected_attainment=expected_attainment,
    )


def device_summary(columns: RequestColumns) -> DeviceSummary:
    """The requests that one device answered; the number of batches is rounded as in `summary`."""
    pairs, counts = np.unique(np.stack((columns.family, columns.variant)), axis=1, return_counts=True)
    by_variant: dict[str, dict[str, int]] = {}
    for family, variant, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
        if variant != _UNKNOWN:
            by_variant.setdefault(columns.families[family], {})[columns.variants[variant]] = count
    batches = _batches(columns.batch)
    return DeviceSummary(
        answers=len(columns),
        batches=None if batches is None else round(batches),
        mean_batch=_mean_batch(columns.batch),
        relative_accuracy=_mean(columns.relative),
        answers_by_variant=by_variant,
    )


def windows(columns: RequestColumns, duration_s: float, length_s: float) -> tuple[Window, ...]:
    """The run in windows of ``length_s``; a request counts in the window of its scheduled arrival.

    The last window ends with the run or the last arrival, and has its true length. A rest shorter than half a window
    joins the window before, so that no rate is of an instant. A run of no duration has one window if any request.
    """
    span_s = max(float(duration_s), float(np.max(columns.arrival_s, initial=0.0)))
    if not span_s and not len(columns):
        return ()
    count = max(1, math.floor(span_s / length_s + 0.5))
    starts_s = np.arange(count) * length_s
    lengths_s = np.diff(starts_s, append=span_s or length_s)
    index = np.minimum((columns.arrival_s / length_s).astype(np.int64), count - 1)

    def total(chosen: Bools) -> Ints:
        return np.bincount(index[chosen], minlength=count)

    known = ~np.isnan(columns.relative)
    sums = np.bincount(index[known], weights=columns.relative[known], minlength=count)
    summed = zip(sums.tolist(), total(known).tolist(), strict=True)
    rows = zip(
        starts_s.tolist(),
        lengths_s.tolist(),
        (np.bincount(index, minlength=count) / lengths_s).tolist(),
        (total(columns.answered) / lengths_s).tolist(),
        [relative / answers if answers else None for relative, answers in summed],
        total(columns.violating).tolist(),
        _answers_by_variant(columns, index, count),
        strict=True,
    )
    return tuple(Window(*row) for row in rows)


def _answers_by_variant(columns: RequestColumns, index: Ints, count: int) -> list[dict[str, dict[str, int]]]:
    """For each of ``count`` windows the answers by family and variant; ``index`` is the window of each request."""
    known, families, variants = columns.variant != _UNKNOWN, columns.families, columns.variants
    codes = (index * len(families) + columns.family) * len(variants) + columns.variant
    found: list[dict[str, dict[str, int]]] = [{} for _ in range(count)]
    for code, answers in zip(*map(np.ndarray.tolist, np.unique(codes[known], return_counts=True)), strict=True):
        place, variant = divmod(code, len(variants))
        window, family = divmod(place, len(families))
        found[window].setdefault(families[family], {})[variants[variant]] = answers
    return found


def _variants(columns: RequestColumns) -> dict[str, float | None]:
    """The variants that answered and the mean accuracies of their answers."""
    return {
        columns.variants[variant]: _mean(columns.accuracy[columns.variant == variant])
        for variant in np.unique(columns.variant[columns.variant != _UNKNOWN]).tolist()
    }


def _fields(found: Summary) -> dict[str, Any]:
    return {name: getattr(found, name) for name in found.__struct_fields__}


def _answered(outcome: Ints) -> Bools:
    return np.isin(outcome, (_CODES[Outcome.SERVED], _CODES[Outcome.LATE]))


def _coded(names: Sequence[str | None], first: Sequence[str] = ()) -> tuple[tuple[str, ...], Ints]:
    """The different names, with ``first`` before others, and for each of ``names`` its index among them."""
    different = tuple(name for name in dict.fromkeys((*first, *names)) if name is not None)
    codes = {name: code for code, name in enumerate(different)}
    return different, np.array([_UNKNOWN if name is None else codes[name] for name in names], dtype=np.int64)


def _known(values: Sequence[float | None], answered: Bools) -> Floats:
    column = np.array([_NAN if value is None else value for value in values], dtype=np.float64)
    return np.where(answered, column, _NAN)


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _rate(count: int, duration_s: float) -> float:
    return count / duration_s if duration_s else 0.0


def _batches(batch: Floats) -> float | None:
    known = batch[~np.isnan(batch)]
    return float(np.sum(1 / known)) if len(known) else None


def _mean_batch(batch: Floats) -> float | None:
    batches = _batches(batch)
    return None if batches is None else int(np.count_nonzero(~np.isnan(batch))) / batches


def _max_accuracy_drop(over: Sequence[Window]) -> float | None:
    lowest = min((w.relative_accuracy for w in over if w.relative_accuracy is not None), default=None)
    return None if lowest is None else max(0.0, 100 - 100 * lowest)


def _latency(latency_s: Floats) -> LatencySummary | None:
    known = latency_s[~np.isnan(latency_s)]
    return LatencySummary(*np.percentile(known, (50, 90, 95, 99, 100)).tolist()) if len(known) else None


def _quantiles(latency_s: Floats) -> tuple[float, ...]:
    known = latency_s[~np.isnan(latency_s)]
    return tuple(np.percentile(known, np.linspace(0, 100, QUANTILES)).tolist()) if len(known) else ()
