"""Plans that were wrong once, made as small as they could be."""

from dataclasses import replace

import msgspec
from builders import make_placement, make_plan
from tiny_fleets import Tiny

from proteus_cli.domain.rules import PAPER_RULES, DeviceVariant, Rules


def cpus(count: int, rules: Rules, demand_qps: dict[str, float], **variants: tuple[float, int]) -> Tiny:
    """So many like devices; accuracy and capacity in qps by variant, whose family is its first letter."""
    accuracy: dict[str, dict[str, float]] = {family: {} for family in demand_qps}
    for variant, (fraction, _) in variants.items():
        accuracy[variant[0]][variant] = fraction
    latency_s = {("cpu", variant[0], variant): {1: 1 / qps} for variant, (_, qps) in variants.items()}
    rules = msgspec.structs.replace(rules, capacity=PAPER_RULES.capacity, slo_fraction=PAPER_RULES.slo_fraction)
    return Tiny(accuracy, latency_s, ("cpu",) * count, demand_qps, rules=rules, price={"cpu": 1.0})


THIRDS = {"a": 66.0, "b": 66.0, "c": 66.0}
A_0, B_0, C_0 = (0.9, 100), (0.9, 100), (0.9, 100)
PIN = DeviceVariant("cpu1", "c", "c0")


ONCE_WRONG: dict[str, Tiny] = {
    # The solver hands back the plan that it was started from, with the value of a better one.
    "start handed back": cpus(
        3, Rules(), {"a": 20.0, "b": 120.0, "c": 211.0}, a0=(0.9, 40), b0=(0.9, 100), c0=(1.0, 20)
    ),
    "start handed back, max-min": replace(
        cpus(
            2,
            Rules(fairness="maxmin", pinned=(PIN,), budget_w=15.0),
            {"a": 10.0, "b": 20.0, "c": 10.0},
            a0=(0.7, 40),
            b0=(0.6, 25),
            b1=(0.8, 20),
            c0=(0.6, 25),
        ),
        power_w={("cpu", "a0"): 10.0, ("cpu", "b0"): 1.0, ("cpu", "b1"): 7.0, ("cpu", "c0"): 1.0},
    ),
    # Two of three devices hold them all, if one family is split.
    "packed": cpus(3, Rules(residency=2, pack=True), THIRDS, a0=A_0, b0=B_0, c0=C_0),
    "cheapest": cpus(3, Rules(residency=2, minimize="cost"), THIRDS, a0=A_0, b0=B_0, c0=C_0),
    "within a budget": cpus(3, Rules(residency=2, budget_cost=2.0), THIRDS, a0=A_0, b0=B_0, c0=C_0),
    # A device draws what its hungriest variant does, so both at once take 160 W.
    "within a power": replace(
        cpus(2, Rules(residency=2, budget_w=120.0), {"a": 60.0, "b": 60.0}, a0=A_0, b0=B_0),
        power_w={("cpu", "a0"): 100.0, ("cpu", "b0"): 60.0},
    ),
    # After the loss of one of two only 100 qps are sure; of 40, 20 and 20 qps only two of the three.
    "survives": cpus(2, Rules(survive=1), {"a": 150.0}, a0=A_0),
    "survives, two families": cpus(
        3, Rules(survive=1), {"a": 100.0, "b": 100.0}, a0=(0.8, 40), a1=(0.9, 20), b0=(1.0, 20)
    ),
    # A spare may be of any variant.
    "spare stays": replace(
        cpus(2, Rules(survive=1), {"a": 10.0}, a0=(0.8, 100), a1=(0.9, 100)),
        current=make_plan(make_placement("cpu0", "a", "a1"), make_placement("cpu1", "a", "a0")),
    ),
    # The solver's rounding looks like work that finds no place.
    "rounding, lowest power": replace(
        cpus(1, Rules(residency=2, minimize="power"), {"a": 50.0}, a0=(0.5, 100), a1=(0.9, 20)),
        power_w={("cpu", "a0"): 5.0, ("cpu", "a1"): 5.0},
        headroom=1.1,
    ),
    # Nothing is accurate; nothing is fast enough.
    "no accuracy": cpus(2, Rules(), {"a": 150.0}, a0=(0.0, 100)),
    "no variant": cpus(2, Rules(), {"a": 150.0}, a0=(0.9, 10)),
}
"""By what was wrong."""
