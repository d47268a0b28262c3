"""Tiny instances with rules: one part of the rules at a time, or several together."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import msgspec
from builders import make_cascade_point, make_placement, make_plan
from hypothesis import strategies as st
from tiny_fleets import TYPES, Latencies, Tiny

from proteus_cli.domain.catalog import PREFERENCES
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.rules import DeviceVariant, Reserved
from proteus_cli.domain.stages.cascade import CascadeProfile

if TYPE_CHECKING:
    from proteus_cli.domain.profile import LatencyStatistic

CAPACITIES_QPS = (10, 20, 25, 40, 50, 80, 100)  # 10 qps take 100 ms: too slow for half of the SLO


@st.composite
def small_fleets(draw: st.DrawFn, *, devices: int = 3, choices: int = 6) -> Tiny:
    """Round numbers, so that plans tie; ``choices`` is the most variants of all families together."""
    accuracy: dict[str, dict[str, float]] = {}
    left = choices
    for family in "abc"[: draw(st.integers(1, 3))]:
        grades = draw(st.lists(st.integers(5, 10), min_size=1, max_size=max(1, min(3, left))))
        left -= len(grades)
        accuracy[family] = {f"{family}{i}": grade / 10 for i, grade in enumerate(grades)}
    kinds = TYPES[: draw(st.integers(1, 2))]
    latency_s: Latencies = {
        (kind, family, variant): {1: 1 / draw(st.sampled_from(CAPACITIES_QPS))}
        for kind in TYPES
        for family, of in accuracy.items()
        for variant in of
    }
    fleet = tuple(sorted(draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=devices))))
    rates = st.sampled_from([0, 10, 20, 50, 80, 120, 300]) | st.integers(1, 300)
    hosts = tuple(draw(st.lists(st.sampled_from(["", "x", "y"]), min_size=len(fleet), max_size=len(fleet))))
    return Tiny(accuracy, latency_s, fleet, {family: float(draw(rates)) for family in accuracy}, hosts=hosts)


@st.composite
def crowded_fleets(draw: st.DrawFn) -> Tiny:
    """Three families, none of which needs a whole device: who shares one with whom is what matters."""
    accuracy = {
        f: {f"{f}{i}": draw(st.integers(5, 10)) / 10 for i in range(n)} for f, n in (("a", 2), ("b", 1), ("c", 1))
    }
    latency_s: Latencies = {
        (kind, family, variant): {1: 1 / draw(st.sampled_from([80, 100, 100]))}
        for kind in TYPES
        for family, of in accuracy.items()
        for variant in of
    }
    fleet = draw(st.sampled_from([("cpu", "cpu"), ("cpu", "cpu", "cpu"), ("cpu", "gpu"), ("cpu", "cpu", "gpu")]))
    rates = st.sampled_from([30, 50, 60, 60, 66, 70])
    memory = {v: draw(st.integers(1, 2)) for of in accuracy.values() for v in of}
    memory |= {kind: draw(st.integers(2, 4)) for kind in TYPES}
    tiny = Tiny(accuracy, latency_s, fleet, {family: float(draw(rates)) for family in accuracy}, memory=memory)
    return _asking(tiny, residency=draw(st.sampled_from([2, 2, 3, "memory"])))


@st.composite
def interfering(draw: st.DrawFn, part: str) -> Tiny:
    """Crowded devices whose variants cost each other time, up to so much that both are late, under one more part."""
    tiny = draw(crowded_fleets())
    variants = [variant for of in tiny.accuracy.values() for variant in of]
    places = [
        (kind, one, other) for kind in set(tiny.devices) for one in variants for other in variants if one != other
    ]
    ratios = st.sampled_from([1.0, 1.0, 1.1, 1.25, 1.5, 2.0, 6.0])
    return PARTS[part](draw, replace(tiny, sharing={place: draw(ratios) for place in sorted(places)}))


@st.composite
def interfering_as_sets(draw: st.DrawFn, part: str) -> Tiny:
    """Crowded devices where any two variants cost each other nothing, and three may, with memory for them."""
    tiny = _asking(draw(crowded_fleets()), residency=draw(st.sampled_from([3, 3, "memory"])))
    tiny = replace(tiny, memory=tiny.memory | dict.fromkeys(TYPES, draw(st.integers(3, 6))))
    variants = [variant for of in tiny.accuracy.values() for variant in of]
    kinds = sorted(set(tiny.devices))
    pairs = {(kind, one, other): 1.0 for kind in kinds for one in variants for other in variants if one != other}
    ratios = st.sampled_from([1.0, 1.1, 1.25, 1.5, 2.0, 6.0])
    sets = {
        (kind, one, *(each for each in three if each != one)): draw(ratios)
        for kind in kinds
        for three in combinations(variants, 3)
        for one in three
    }
    return PARTS[part](draw, replace(tiny, sharing=pairs | sets))


def _keys(tiny: Tiny) -> st.SearchStrategy[tuple[str, str]]:
    return st.sampled_from([(f, v) for f, variants in tiny.accuracy.items() for v in variants])


def _selectors(tiny: Tiny) -> st.SearchStrategy[str]:
    return st.sampled_from([*tiny.kind_of, *dict.fromkeys(tiny.devices)])


def _pairs(tiny: Tiny) -> st.SearchStrategy[DeviceVariant]:
    return st.builds(lambda device, key: DeviceVariant(device, *key), _selectors(tiny), _keys(tiny))


def _asking(tiny: Tiny, **rules: Any) -> Tiny:
    return replace(tiny, rules=msgspec.structs.replace(tiny.rules, **rules))


def _priced(draw: st.DrawFn, tiny: Tiny) -> Tiny:
    return replace(tiny, price={kind: float(draw(st.integers(0, 3))) for kind in TYPES})


def _powered(draw: st.DrawFn, tiny: Tiny) -> Tiny:
    keys = [(kind, variant) for kind, _, variant in tiny.latency_s]
    return replace(tiny, power_w={key: float(draw(st.integers(0, 10))) for key in keys})


def _with_tails(draw: st.DrawFn, tiny: Tiny) -> Tiny:
    times = st.sampled_from([0.5, 0.8, 1.0, 1.5, 2.0])
    kinds: tuple[LatencyStatistic, ...] = ("mean", "p50", "p95", "p99")
    several = {key: {1: s[1], 4: s[1] * draw(st.sampled_from([1.0, 2.0, 4.0]))} for key, s in tiny.latency_s.items()}
    variants = [variant for of in tiny.accuracy.values() for variant in of]
    tails: dict[str, Mapping[LatencyStatistic, float]] = {v: {kind: draw(times) for kind in kinds} for v in variants}
    chosen, part = draw(st.sampled_from(kinds)), draw(st.sampled_from([0.2, 0.5, 0.9, 1.0]))
    return _asking(replace(tiny, latency_s=several, tails=tails), capacity=chosen, slo_fraction=part)


def _with_memory(draw: st.DrawFn, tiny: Tiny) -> Tiny:
    names = [variant for of in tiny.accuracy.values() for variant in of]
    memory = {name: draw(st.integers(1, 4)) for name in names} | {kind: draw(st.integers(2, 7)) for kind in TYPES}
    return _asking(replace(tiny, memory=memory), residency=draw(st.sampled_from(["memory", 2, 3])))


@st.composite
def plans_in_force(draw: st.DrawFn, tiny: Tiny, most: int) -> Plan:
    """Up to ``most`` variants on each device."""
    devices = list(tiny.kind_of)
    held = {device: draw(st.sets(_keys(tiny), max_size=most)) for device in devices}
    placements = [make_placement(device, *key) for device, keys in held.items() for key in sorted(keys)]
    return make_plan(*placements, devices=devices)


def _in_force(draw: st.DrawFn, tiny: Tiny) -> Tiny:
    return replace(tiny, current=draw(plans_in_force(tiny, draw(st.integers(1, 2)))))


def _floors(draw: st.DrawFn, tiny: Tiny) -> Tiny:
    grades = st.integers(5, 10).map(lambda grade: grade / 10)
    return _asking(tiny, min_accuracy=draw(st.dictionaries(st.sampled_from(list(tiny.accuracy)), grades, min_size=1)))


def _expected(draw: st.DrawFn, tiny: Tiny) -> Tiny:
    """Between the accuracies of cascades, too."""
    grades = st.integers(50, 100).map(lambda grade: grade / 100)
    floors = draw(st.dictionaries(st.sampled_from(list(tiny.accuracy)), grades, min_size=1))
    return _asking(tiny, min_expected_accuracy=floors)


def _shares(draw: st.DrawFn, tiny: Tiny) -> Tiny:
    parts = st.sampled_from([0.25, 0.4, 0.5, 0.7, 1.0])
    return _asking(tiny, max_share=draw(st.dictionaries(st.sampled_from(list(tiny.accuracy)), parts, min_size=1)))


def _reserved(draw: st.DrawFn, tiny: Tiny) -> Tiny:
    holders = st.sampled_from([None, *tiny.accuracy])
    some = st.lists(st.builds(Reserved, _selectors(tiny), holders), min_size=1, max_size=2, unique=True)
    return _asking(tiny, reserved=tuple(draw(some)))


def _networks(draw: st.DrawFn, tiny: Tiny) -> Tiny:
    """From too narrow for one device to wide enough for all."""
    sizes = {family: draw(st.sampled_from([0, 1, 2, 5])) for family in tiny.accuracy}
    networks = {host: Network(0.0, float(draw(st.integers(1, 400))), sizes) for host in ("x", "y")}
    return replace(tiny, networks=networks)


def _preferring(draw: st.DrawFn, tiny: Tiny) -> Tiny:
    """Any mix of preferences."""
    tiny = _powered(draw, _priced(draw, tiny))
    return _asking(tiny, prefer={family: draw(st.sampled_from(PREFERENCES)) for family in tiny.accuracy})


def _bounded(draw: st.DrawFn, tiny: Tiny) -> Tiny:
    """From bounds that nothing keeps to such that all do."""
    tiny = _powered(draw, _priced(draw, tiny))
    bounds = {
        "max_latency_s": [0.025, 0.05, 0.1],
        "max_energy_j": [0.02, 0.1, 0.2, 0.5],
        "max_cost_per_million": [2.0, 5.0, 10.0, 30.0],
    }
    chosen = draw(st.lists(st.sampled_from(list(bounds)), min_size=1, unique=True))
    families = st.sampled_from(list(tiny.accuracy))
    return _asking(
        tiny, **{name: draw(st.dictionaries(families, st.sampled_from(bounds[name]), min_size=1)) for name in chosen}
    )


PARTS: Mapping[str, Callable[[st.DrawFn, Tiny], Tiny]] = {
    "max-min fairness": lambda draw, tiny: _asking(tiny, fairness="maxmin"),
    "the lowest cost": lambda draw, tiny: _asking(_priced(draw, tiny), minimize="cost"),
    "the lowest power": lambda draw, tiny: _asking(_powered(draw, tiny), minimize="power"),
    "the fewest loads": _in_force,
    "the fewest devices": lambda draw, tiny: _asking(tiny, pack=True),
    "a budget of cost": lambda draw, tiny: _asking(_priced(draw, tiny), budget_cost=draw(st.integers(0, 6).map(float))),
    "a budget of power": lambda draw, tiny: _asking(_powered(draw, tiny), budget_w=draw(st.integers(0, 20).map(float))),
    "floors": _floors,
    "expected accuracies": _expected,
    "shares": _shares,
    "preferences": _preferring,
    "bounds of answers": _bounded,
    "reserved devices": _reserved,
    "bans": lambda draw, tiny: _asking(tiny, banned=tuple(draw(st.lists(_pairs(tiny), min_size=1, max_size=3)))),
    "pins": lambda draw, tiny: _asking(tiny, pinned=tuple(draw(st.lists(_pairs(tiny), min_size=1, max_size=2)))),
    "the loss of a device": lambda draw, tiny: _asking(tiny, survive=1),
    "the loss of a host": lambda draw, tiny: _asking(tiny, survive=1, survive_unit="host"),
    "narrow networks": _networks,
    "headroom": lambda draw, tiny: replace(tiny, headroom=draw(st.sampled_from([1.1, 1.5, 2.0]))),
    "kinds of latency": _with_tails,
    "resident sets": _with_memory,
}


@st.composite
def cascaded_fleets(draw: st.DrawFn) -> Tiny:
    """One family with cascades of two or three variants, perhaps another without; batches of 1 and 4, fast and slow.

    Of 100 ms, half of which count, the parts are 12.5, 25, 37.5 and 50 ms.
    """
    grades = draw(st.lists(st.integers(5, 9), min_size=2, max_size=3, unique=True))
    accuracy = {"a": {f"a{i}": grade / 10 for i, grade in enumerate(sorted(grades))}}
    if draw(st.booleans()):
        accuracy["b"] = {"b0": draw(st.integers(5, 10)) / 10}
    first_ms = {True: st.sampled_from([2, 5, 9, 12]), False: st.sampled_from([9, 12, 20, 24, 30])}
    times = st.sampled_from([1.2, 2.0, 3.0])
    latency_s: Latencies = {
        (kind, family, variant): {1: (ms := draw(first_ms[variant == "a0"])) / 1000, 4: ms * draw(times) / 1000}
        for kind in TYPES
        for family, of in accuracy.items()
        for variant in of
    }
    fleet = draw(st.sampled_from([("cpu", "cpu"), ("cpu", "gpu"), ("cpu", "cpu", "gpu"), ("cpu", "cpu", "cpu")]))
    rates = st.sampled_from([40, 90, 150, 300])
    names = list(accuracy["a"])
    pairs = [(first, second) for i, first in enumerate(names) for second in names[i + 1 :]]
    chosen = draw(st.lists(st.sampled_from(pairs), min_size=1, max_size=2, unique=True))
    cascades = tuple(draw(_cascades(accuracy["a"], *pair)) for pair in chosen)
    demand_qps = {family: float(draw(rates)) for family in accuracy}
    hosts = tuple(draw(st.lists(st.sampled_from(["", "x", "y"]), min_size=len(fleet), max_size=len(fleet))))
    return _asking(Tiny(accuracy, latency_s, fleet, demand_qps, hosts=hosts, cascades=cascades), cascades=True)


@st.composite
def _cascades(draw: st.DrawFn, accuracy: Mapping[str, float], first: str, second: str) -> CascadeProfile:
    """Of one to three points: the first may be below the hull of the others, the last above the second variant."""
    least, most = accuracy[first], accuracy[second]
    points = [
        make_cascade_point(deferred_frac, deferred_frac, round(least + gain * (most - least), 4))
        for deferred_frac, gain in ((0.1, 0.2), (0.25, 0.8), (0.5, 1.1))
    ]
    some = draw(st.lists(st.sampled_from(points), min_size=1, max_size=3, unique=True))
    return CascadeProfile("a", first, second, "digest", tuple(sorted(some, key=lambda point: point.threshold)))


@st.composite
def ruled_cascades(draw: st.DrawFn, *always: str) -> Tiny:
    """Cascades under up to two more parts of rules that go together, as often as not on devices that are shared."""
    shared = ["resident sets"] if draw(st.booleans()) else []
    parts = [*always, *shared, *draw(st.lists(st.sampled_from(SHARED if shared else list(PARTS)), max_size=1))]
    tiny = draw(cascaded_fleets())
    for part in parts:
        tiny = PARTS[part](draw, tiny)
    return tiny


LOSSES = ("the loss of a device", "the loss of a host")
SHARED = [part for part in PARTS if part not in {*LOSSES, "resident sets"}]
# Rules refuse the first. Of the second nobody says whether the share holds after the loss. Of the third the planner is
# cautious: what it keeps of a network for one loss isn't used for another.
AT_ODDS = [{loss, other} for loss in LOSSES for other in ("resident sets", "shares", "narrow networks")]


@st.composite
def ruled(draw: st.DrawFn, *parts: str) -> Tiny:
    """A tiny fleet with these parts of rules."""
    is_shared = "resident sets" in parts
    tiny = draw(small_fleets(devices=2, choices=4) if is_shared else small_fleets())
    for part in parts:
        tiny = PARTS[part](draw, tiny)
    return tiny


@st.composite
def crowded(draw: st.DrawFn, part: str) -> Tiny:
    """Devices that are shared, under one more part of rules."""
    return PARTS[part](draw, draw(crowded_fleets()))


@st.composite
def ruled_by_several(draw: st.DrawFn) -> Tiny:
    """With any two or three parts of rules that go together."""
    parts = draw(st.lists(st.sampled_from(list(PARTS)), min_size=2, max_size=3, unique=True).filter(_agree))
    return draw(ruled(*parts))


def _agree(parts: list[str]) -> bool:
    return not any(odd <= set(parts) for odd in AT_ODDS)
