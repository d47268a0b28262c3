"""The ways to answer a query where there are cascades: by one variant alone, or by a first one and perhaps a second.

A cascade counts if all device groups with a choice of its first variant know it, because thresholds belong to the
outputs of that variant. Where device types differ, the lowest accuracy counts. Its stages share the SLO: the first gets
a part of it (`domain.cascade.SPLITS`), the second the rest. A variant that is a stage has a choice for each such part,
beside the one for the whole SLO. Longer parts allow larger batches and more capacity. A choice for a shorter part can
replace one for a longer part, so the longer one is left out where it is not faster.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import scipy.sparse as sp

from proteus_cli.arrays import Bools, Floats, Ints
from proteus_cli.domain.capacity import SAME_RATE_FRAC, CapacityStep, capacity_at
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.stages.cascade import SPLITS, CascadePoint
from proteus_cli.planning.model.choices import Choice, DeviceGroup, Pool


@dataclass(frozen=True, slots=True)
class Cascade:
    """Two variants of a family at one point of what was measured of them."""

    family: int
    first: str
    second: str
    point: CascadePoint


@dataclass(frozen=True, slots=True)
class Stage:
    """How many ``executions`` a query needs of a variant, in batches that take no more than a part of the SLO."""

    pool: Pool
    part: float
    executions: float


@dataclass(frozen=True, slots=True)
class Way:
    """One way to answer queries of a family: its stages, in order, and the cascade that this is one of, if it is."""

    family: int
    accuracy: float
    stages: tuple[Stage, ...]
    cascade: Cascade | None = None


@dataclass(frozen=True, eq=False)
class Ways:
    """The ``W`` ways of all families that have cascades, and ``R`` rows of what they need.

    Each row stands for a pool and a part of the SLO. ``needed`` [R, W] is the number of executions that a query of each
    way needs from the pool within that part or a shorter one. The [N] pairs of ``row_of`` and ``choice_of`` are the
    choices that can give them. ``families`` is how many there are in all.
    """

    ways: tuple[Way, ...]
    needed: sp.csc_array
    row_of: Ints
    choice_of: Ints
    families: int

    @cached_property
    def family(self) -> Ints:
        """Index of the family of each way [W]."""
        return np.array([way.family for way in self.ways], dtype=np.int64)

    @cached_property
    def accuracy(self) -> Floats:
        """The accuracy of what each way answers [W]."""
        return np.array([way.accuracy for way in self.ways])

    @cached_property
    def has_ways(self) -> Bools:
        """Whether the family has cascades [F]: the others have none of the ways."""
        found = np.zeros(self.families, dtype=bool)
        found[self.family] = True
        return found

    @cached_property
    def max_needed(self) -> Floats:
        """The most executions in each row that one query may need [R]."""
        most: Floats = self.needed.max(axis=1).toarray().ravel()
        return most

    @cached_property
    def top(self) -> Floats:
        """The accuracy of each family's most accurate way [F]; 0 where it has none."""
        top: Floats = np.zeros(self.families)
        np.maximum.at(top, self.family, self.accuracy)
        return top

    @cached_property
    def least(self) -> Floats:
        """The accuracy of each family's least accurate way [F]; 0 where it has none."""
        least: Floats = np.full(self.families, np.inf)
        np.minimum.at(least, self.family, self.accuracy)
        return np.where(self.has_ways, least, 0.0)

    @cached_property
    def loss(self) -> sp.csc_array:
        """How much less accurate each way is than the best one of its family [F, W]."""
        columns = np.arange(len(self.ways))
        less = self.top[self.family] - self.accuracy
        return sp.csc_array((less, (self.family, columns)), (self.families, len(self.ways)))

    @cached_property
    def upper_steps(self) -> "UpperSteps":
        """The distinct accuracies of each family's ways, without the least one."""
        return UpperSteps.of(self)


@dataclass(frozen=True, slots=True, eq=False)
class UpperSteps:
    """The steps of accuracy of families with cascades, but for the last one of each: ``U`` of them.

    ``family`` [U]. ``loss`` [F, U] is the accuracy lost by the next step. ``at_step`` [U, W] is 1 where the way has the
    accuracy of the step. ``rise`` [U, U] times the parts answered up to each step gives the parts answered at it.
    """

    family: Ints
    loss: sp.csc_array
    at_step: sp.csc_array
    rise: sp.csc_array

    @classmethod
    def of(cls, ways: Ways) -> "UpperSteps":
        """The steps of the families that have several ways to answer."""
        steps: list[tuple[int, float, float, bool]] = []
        for f in np.flatnonzero(ways.has_ways).tolist():
            falling = sorted(set(ways.accuracy[ways.family == f].tolist()), reverse=True)
            steps += [(f, a, a - worse, i == 0) for i, (a, worse) in enumerate(pairwise(falling))]
        count = len(steps)
        place = {(f, accuracy): u for u, (f, accuracy, _, _) in enumerate(steps)}
        at = [(place[key], w) for w, way in enumerate(ways.ways) if (key := (way.family, way.accuracy)) in place]
        after = [u for u, (_, _, _, is_first) in enumerate(steps) if not is_first]
        family = np.array([f for f, _, _, _ in steps], dtype=np.int64)
        ones = np.ones(count)
        before = sp.csc_array((np.ones(len(after)), (after, [u - 1 for u in after])), (count, count))
        return cls(
            family=family,
            loss=sp.csc_array(([less for _, _, less, _ in steps], (family, np.arange(count))), (ways.families, count)),
            at_step=sp.csc_array((np.ones(len(at)), ([u for u, _ in at], [w for _, w in at])), (count, len(ways.ways))),
            rise=sp.csc_array(sp.diags_array(ones) - before),
        )


def with_ways(
    catalog: Catalog, groups: Sequence[DeviceGroup], choices: tuple[Choice, ...], rules: Rules
) -> tuple[tuple[Choice, ...], Ways | None]:
    """The choices, with those for parts of the SLO that cascades can use, and the ways; None where no cascade counts.

    A variant that is a stage has the same accuracy everywhere: the lowest of any group. One that is too inaccurate to
    answer by itself is the first stage of cascades, or has no choice.
    """
    min_accuracy_alone = [rules.min_accuracy_alone(name) for name in catalog.names]
    cascades = tuple(_agreed(catalog, groups, choices, rules))
    parts: dict[tuple[int, str], set[float]] = {}
    for cascade in cascades:
        parts.setdefault((cascade.family, cascade.first), set()).update(SPLITS)
        parts.setdefault((cascade.family, cascade.second), set()).update(1 - split for split in SPLITS)
    lowest = _lowest_accuracies(choices)
    alike = (replace(c, accuracy=lowest[key]) if (key := _variant(c)) in parts else c for c in choices)
    every = tuple(_by_part(catalog, groups, alike, parts, rules))
    ways = tuple(_ways(every, cascades, min_accuracy_alone))
    stages = {stage.pool for way in ways for stage in way.stages}
    kept = tuple(c for c in every if c.accuracy >= min_accuracy_alone[c.family] or c.pool in stages)
    return kept, _as_rows(kept, ways, len(catalog.families)) if ways else None


def _variant(choice: Choice) -> tuple[int, str]:
    return choice.family, choice.measured.variant


def _lowest_accuracies(choices: Iterable[Choice]) -> dict[tuple[int, str], float]:
    lowest: dict[tuple[int, str], float] = {}
    for choice in choices:
        lowest[_variant(choice)] = min(lowest.get(_variant(choice), 1.0), choice.accuracy)
    return lowest


def _agreed(
    catalog: Catalog, groups: Sequence[DeviceGroup], choices: Sequence[Choice], rules: Rules
) -> Iterator[Cascade]:
    """Each cascade at each threshold that all groups with its first variant know, and that has both variants.

    As accurate as it must be, by family, are the cascade and its second variant, which may get queries by itself.
    """
    lowest, min_accuracy_alone = _lowest_accuracies(choices), [rules.min_accuracy_alone(name) for name in catalog.names]
    knowing: dict[tuple[int, str], dict[int, DeviceGroup]] = {}
    for choice in choices:
        group = groups[choice.group]
        if not rules.may_use_cascades(catalog.names[choice.family]):
            continue
        knowing.setdefault(_variant(choice), {})[id(group.profile.cascades)] = group
    family_of = {name: f for f, name in enumerate(catalog.names)}
    for (f, first), distinct in knowing.items():
        points: list[dict[str, dict[float, CascadePoint]]] = []
        for group in distinct.values():
            mine = [each for each in group.profile.cascades if (family_of.get(each.family), each.first) == (f, first)]
            points.append({each.second: {point.threshold: point for point in each.points} for each in mine})
        for second, measured in points[0].items():
            for threshold in measured if lowest.get((f, second), -1.0) >= min_accuracy_alone[f] else ():
                same = [found for each in points if (found := each.get(second, {}).get(threshold)) is not None]
                worst = min(same, key=lambda point: point.accuracy)
                if (
                    len(same) == len(points)
                    and worst.accuracy > lowest[f, first]
                    and worst.accuracy >= min_accuracy_alone[f]
                ):
                    yield Cascade(f, first, second, worst)


def _by_part(
    catalog: Catalog,
    groups: Sequence[DeviceGroup],
    choices: Iterable[Choice],
    parts: Mapping[tuple[int, str], set[float]],
    rules: Rules,
) -> Iterator[Choice]:
    """Each choice, for variants that are stages behind those for parts of the SLO that are of use, the shortest first.

    Rates that are measured to be the same don't make another part; only the whole SLO counts to the last bit.
    """
    targets = rules.planned_targets(catalog.slo_targets())
    known: dict[tuple[int, int], list[tuple[float, tuple[CapacityStep, ...]]]] = {}
    for choice in choices:
        slower: tuple[CapacityStep, ...] = ()
        profile = groups[choice.group].profile
        for wanted in [parts[_variant(choice)]] if _variant(choice) in parts else []:
            key = id(choice.measured), profile.slots
            if key not in known:
                target = targets[catalog.names[choice.family]]
                known[key] = list(rules.stage_steps(target, profile.points_of(choice.measured)))
            for part, steps in known[key]:
                if part in wanted and _is_faster(steps, slower, 1 + SAME_RATE_FRAC):
                    slower = steps
                    yield replace(choice, slo_part=part, capacity_steps=steps)
        if _is_faster(choice.capacity_steps, slower, 1.0):
            yield choice


def _is_faster(steps: Sequence[CapacityStep], than: Sequence[CapacityStep], times: float) -> bool:
    hosts = {step.hosts for step in (*steps, *than)}
    return any(capacity_at(steps, count).qps > times * capacity_at(than, count).qps for count in hosts)


def _ways(choices: Sequence[Choice], cascades: Sequence[Cascade], min_accuracy_alone: Sequence[float]) -> Iterator[Way]:
    """Alone, each pool that may be of the families that have cascades; then these, for the splits that are of use."""
    families = {cascade.family for cascade in cascades}
    of_pool: dict[Pool, list[int]] = {}
    for c, choice in enumerate(choices):
        if choice.family in families:
            of_pool.setdefault(choice.pool, []).append(c)
    for pool in of_pool:
        if pool.accuracy < min_accuracy_alone[pool.family]:
            continue
        yield Way(pool.family, pool.accuracy, (Stage(pool, 1.0, 1.0),))
    stage_pool = {(pool.family, pool.variant): pool for pool in of_pool}
    for cascade in cascades:
        first, second = (stage_pool[cascade.family, name] for name in (cascade.first, cascade.second))
        distinct: dict[tuple[frozenset[int], ...], tuple[Stage, Stage]] = {}
        for split in SPLITS:
            stages = Stage(first, split, 1.0), Stage(second, 1 - split, cascade.point.deferred_frac)
            able = (frozenset(c for c in of_pool[s.pool] if choices[c].slo_part <= s.part) for s in stages)
            distinct.setdefault(tuple(able), stages)
        for mine, stages in distinct.items():
            is_less = any(mine != theirs and all(map(frozenset.issubset, mine, theirs)) for theirs in distinct)
            if all(mine) and not is_less:
                yield Way(cascade.family, cascade.point.accuracy, stages, cascade)


def _as_rows(choices: Sequence[Choice], ways: tuple[Way, ...], families: int) -> Ways:
    """A row for each pool and part that stages need; where a longer part has the same choices, its row is enough."""
    rows: list[tuple[Pool, float, frozenset[int]]] = []
    levels = dict.fromkeys((stage.pool, stage.part) for way in ways for stage in way.stages)
    for pool, part in sorted(levels, key=lambda level: (level[0], -level[1])):
        mine = frozenset(c for c, each in enumerate(choices) if each.pool == pool and each.slo_part <= part)
        if not rows or rows[-1][0] != pool or rows[-1][2] != mine:
            rows.append((pool, part, mine))
    entries = [
        (r, w, stage.executions)
        for r, (pool, part, _) in enumerate(rows)
        for w, way in enumerate(ways)
        for stage in way.stages
        if stage.pool == pool and stage.part <= part
    ]
    row, way, executions = (list(column) for column in zip(*entries, strict=True))
    usable = [(r, c) for r, (_, _, mine) in enumerate(rows) for c in sorted(mine)]
    return Ways(
        ways=ways,
        needed=sp.csc_array((executions, (row, way)), (len(rows), len(ways))),
        row_of=np.array([r for r, _ in usable], dtype=np.int64),
        choice_of=np.array([c for _, c in usable], dtype=np.int64),
        families=families,
    )
