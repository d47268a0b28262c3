"""What was to be reached, as far as it was measured."""

from collections.abc import Callable, Iterator

from benchmarks.serving.results import Benchmark, Load, median
from benchmarks.serving.rounds import OURS, RIVALS
from benchmarks.tables import Aim

CPU_AT_MOST = {  # of a rival's CPU per request, by workload
    "tiny-json": {"mosec": 0.7, "triton": 0.6},
    "tiny-binary": {"mosec": 0.6, "triton": 0.6},
    "cnn-binary": {"mosec": 0.95, "triton": 1.0},
    "tiny-grpc": {"triton": 1.0},
}
THROUGHPUT_ABOVE = ("tiny-json", "tiny-binary", "cnn-binary")
P99_BELOW = ("tiny-json", "tiny-binary")
GRPC_CPU_US = 60.0
GOODPUT_KEPT = {"wide": 0.95, "cnn": 0.85}
REFUSED_WITHIN_MS = 2.0  # of which one for the client, which looks up every millisecond
REFUSAL_COST = 0.25  # of an answered request's
IDLE_CPU_MS = 20.0  # in the window of 10 s: two ticks of the clock that counts CPU


def aims(done: Benchmark) -> Iterator[Aim]:
    """Each beside what was measured; those for which something is missing are left out."""
    yield from _against_rivals(done)
    grpc_us = median(load.cpu_us for load in done.loads_of(OURS, "tiny-grpc"))
    if grpc_us is not None:
        yield Aim("tiny-grpc, CPU per request", grpc_us, GRPC_CPU_US, "µs", is_most=True)
    for each in done.idle:
        if each.peer == OURS:
            more_ms = 1000 * (each.cpu_s[1] - each.cpu_s[0])
            yield Aim(f"CPU of {each.connections:,} idle connections", more_ms, IDLE_CPU_MS, "ms", is_most=True)
    yield from _overload(done)


def _against_rivals(done: Benchmark) -> Iterator[Aim]:
    for workload, limits in CPU_AT_MOST.items():
        for rival, limit in limits.items():
            ratio = _ratio(done, workload, rival, lambda load: load.cpu_us)
            if ratio is not None:
                yield Aim(f"{workload}, CPU per request", ratio, limit, f"of {rival}'s", is_most=True)
    for workload in THROUGHPUT_ABOVE:
        for rival in RIVALS:
            ratio = _ratio(done, workload, rival, lambda load: load.rps)
            if ratio is not None:
                yield Aim(f"{workload}, requests/s", ratio, 1.0, f"of {rival}'s", is_most=False)
    for workload in P99_BELOW:
        for rival in RIVALS:
            ours = median(each.p99_ms for each in done.latencies_of(OURS, workload, rival))
            theirs = median(each.p99_ms for each in done.latencies_of(rival, workload, rival))
            if ours is not None and theirs is not None:
                yield Aim(f"{workload}, p99 at {rival}'s half load", ours / theirs, 1.0, f"of {rival}'s", is_most=True)


def _ratio(done: Benchmark, workload: str, rival: str, value: Callable[[Load], float]) -> float | None:
    ours, theirs = (median(value(load) for load in done.loads_of(peer, workload)) for peer in (OURS, rival))
    return ours / theirs if ours is not None and theirs is not None else None


def _overload(done: Benchmark) -> Iterator[Aim]:
    for workload in dict.fromkeys(each.workload for each in done.refusal_costs):
        ratio = median(each.refused_us / each.answered_us for each in done.refusal_costs if each.workload == workload)
        if ratio is not None:
            yield Aim(
                f"{workload}, CPU of a refused request", ratio, REFUSAL_COST, "of an answered one's", is_most=True
            )
    for workload in dict.fromkeys(each.workload for each in done.overloads):
        found = [each for each in done.overloads if each.workload == workload]
        least, most = (end(each.times for each in found) for end in (min, max))
        at_least, at_most = (
            median(each.goodput_qps for each in found if each.times == times) for times in (least, most)
        )
        if at_least and at_most is not None:
            what = f"{workload}, goodput at {most:g}× capacity"
            kept = GOODPUT_KEPT[workload.partition("-")[0]]
            left = median(each.cores_left for each in found if each.times == most)
            possible = _possible(done, workload, left, at_least)
            yield Aim(what, at_most / at_least, kept, f"of that at {least:g}×", is_most=False, possible=possible)
        refused_ms = median(each.refused_p50_ms for each in found if each.times == most and each.refused)
        if refused_ms is not None:
            yield Aim(f"{workload}, 429 at that load, median", refused_ms, REFUSED_WITHIN_MS, "ms", is_most=True)


def _possible(done: Benchmark, workload: str, cores_left: float | None, goodput_qps: float) -> float | None:
    """The part of the goodput that the cores would do, beside the client, if no refusal took any CPU time."""
    answered_us = median(each.answered_us for each in done.refusal_costs if each.workload == workload)
    if answered_us is None or cores_left is None:
        return None
    return min(1.0, 1e6 * cores_left / answered_us / goodput_qps)
