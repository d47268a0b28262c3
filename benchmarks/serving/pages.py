"""What was measured, for the terminal and as Markdown."""

from collections.abc import Callable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.markdown import Markdown
from rich.text import Text

from benchmarks.serving.aims import aims
from benchmarks.serving.results import Benchmark, Latency, Workload
from benchmarks.serving.rounds import OURS, RIVALS
from benchmarks.tables import UNKNOWN, Table, aim_line, rich_table, table_lines

BEGIN, END = "<!-- serving: written by `python -m benchmarks.serving --docs` -->", "<!-- serving: end -->"
HOW = """\
`tiny` is an MLP of 64→32→10, `cnn` three convolutions over 64×64 floats (0.35–0.6 ms a row on one core here), `wide`
the same with more channels (1 ms), `image` the means of the lines of 3×224×224 floats (602,112 bytes). Servers that
don't speak the Open Inference Protocol get the same numbers as plain JSON or raw bytes.
All servers run the same ONNX files with ONNX Runtime, one thread for each model, batches of at most 32 rows, and a
wait of 2 ms for a larger batch where that can be set. One server runs at a time and shares the machine with the client.
CPU is user and system time of the server's whole process tree. Saturation is a closed loop (wrk, or h2load for gRPC)
with 128 connections for `tiny`, 64 for `cnn`, 32 for `image` and `wide`. Latency is that of Poisson arrivals at half of
the server's own median at saturation, from the scheduled arrival. All answers are compared with ONNX Runtime's: a wrong
one fails. Each figure is the median of the rounds (lowest–highest); the order of servers alternates. `–`: not measured,
see below."""

OVERLOADED = """\
Capacity is the throughput at saturation. On time is what is answered within the SLO, once the queue is as long as it
gets. The client shares the cores and looks up every millisecond, which halves its CPU time. What is possible beside it,
in the aims below, is what the cores that it leaves would answer if no refusal took any CPU time."""

REFUSALS = """\
Microseconds of CPU of the server for a request that is answered, its part of the batch included, and for one that is
refused. Two floods of requests give both: 64 at once, of which few are refused, and 640."""


def shown(done: Benchmark) -> RenderableType:
    """For the terminal."""
    parts: list[RenderableType] = [rich_table(table) for table in tables(done)]
    parts += [Text(aim_line(aim), style="green" if aim.is_reached else "red") for aim in aims(done)]
    parts += [Markdown(f"- {remark}") for remark in remarks(done)]
    parts.append(Text(_made(done)))
    return Group(*parts)


def markdown(done: Benchmark) -> str:
    """What stands between the markers."""
    lines = [f"    {done.command}", "", _made(done), "", HOW, ""]
    for table in tables(done):
        lines += table_lines(table)
    lines += ["To be reached:", "", *(f"- {aim_line(aim)}" for aim in aims(done)), ""]
    lines += [f"- {remark}" for remark in remarks(done)]
    return "\n".join(lines).rstrip() + "\n"


def tables(done: Benchmark) -> Iterator[Table]:
    """One for each workload, then what doesn't depend on it."""
    for workload in done.workloads:
        if any(load.workload == workload.name for load in done.loads):
            yield _workload_table(done, workload)
    yield from _same_rate_table(done)
    yield Table(
        "the clients themselves, on a server that reads nothing",
        ("workload", "requests/s", "client's CPU µs", "Poisson/s"),
        tuple(
            (each.workload, f"{each.rps:,.0f}", f"{each.cpu_us:.1f}", f"{each.poisson_qps:,.0f}")
            for each in done.clients
        ),
        "That server is in Python and is slower than wrk and h2load, which can send 1,000,000 / their CPU µs requests "
        "a second. Poisson arrivals come from Python, too; no server gets more than 0.7 of the rate in the table.",
    )
    yield from _other_tables(done)


def _workload_table(done: Benchmark, workload: Workload) -> Table:
    rows = []
    for peer in done.peers:
        loads = done.loads_of(peer, workload.name)
        own = done.latencies_of(peer, workload.name, peer)
        if not loads:
            continue
        rows.append(
            (
                peer,
                spread([load.cpu_us for load in loads], _short),
                spread([load.rps for load in loads], "{:,.0f}".format),
                spread([each.p50_ms for each in own], "{:.2f}".format),
                spread([each.p99_ms for each in own], "{:.2f}".format),
                _rate(own),
                str(sum(load.failed for load in loads) + sum(each.unanswered for each in own)),
            )
        )
    columns = ("", "CPU µs/request", "requests/s", "p50 ms at half", "p99 ms at half", "half/s", "not answered")
    capped = any(each.capped for each in done.latencies if each.workload == workload.name)
    note = "`*`: less than half, as the client can't send more." if capped else ""
    return Table(workload.name, columns, tuple(rows), note)


def _rate(latencies: Sequence[Latency]) -> str:
    rates = [each.rate_qps for each in latencies]
    star = "*" if any(each.capped for each in latencies) else ""
    return spread(rates[-1:], "{:,.0f}".format) + star


def _same_rate_table(done: Benchmark) -> Iterator[Table]:
    rows = []
    for workload in done.workloads:
        for rival in RIVALS:
            theirs = done.latencies_of(rival, workload.name, rival)
            ours = done.latencies_of(OURS, workload.name, rival)
            if theirs and ours:
                cells = [
                    spread([value(each) for each in side], "{:.2f}".format)
                    for value in (_p50, _p99)
                    for side in (theirs, ours)
                ]
                rows.append((f"{workload.name}, {rival}'s half", _rate(ours), *cells))
    columns = ("", "requests/s", "their p50 ms", "our p50 ms", "their p99 ms", "our p99 ms")
    if rows:
        yield Table("proteus at the rate that is half of another's", columns, tuple(rows))


def _p50(latency: Latency) -> float:
    return latency.p50_ms


def _p99(latency: Latency) -> float:
    return latency.p99_ms


def _other_tables(done: Benchmark) -> Iterator[Table]:
    if done.footprints:
        yield Table(
            "idle, all three families hosted",
            ("", "memory (PSS)", "threads", "processes"),
            tuple(
                (each.peer, f"{each.memory_bytes / 2**20:,.0f} MiB", str(each.threads), str(each.processes))
                for each in done.footprints
            ),
        )
    if done.idle:
        first = done.idle[0]
        yield Table(
            f"{first.connections:,} idle connections, without → with",
            ("", f"CPU ms in {first.window_s:g} s", "bytes a connection", "requests/s of others"),
            tuple(
                (
                    each.peer,
                    " → ".join(f"{1000 * cpu_s:.0f}" for cpu_s in each.cpu_s),
                    f"{each.bytes_each:,.0f}",
                    " → ".join(f"{rps:,.0f}" for rps in each.rps),
                )
                for each in done.idle
            ),
        )
    if done.crowds:
        yield Table(
            f"{done.crowds[0].connections:,} connections at once, each asking once",
            ("", "answered", "refused", "silent", "requests/s of 16 others: alone → meanwhile", "of theirs failed"),
            tuple(
                (
                    each.peer,
                    *(f"{count:,}" for count in (each.answered, each.refused, each.silent)),
                    " → ".join(f"{rps:,.0f}" for rps in each.rps),
                    str(each.failed),
                )
                for each in done.crowds
            ),
        )
    if done.overloads:
        yield _overload_table(done)
    if done.refusal_costs:
        yield _refusal_table(done)


def _overload_table(done: Benchmark) -> Table:
    rows = []
    for workload, times in dict.fromkeys((each.workload, each.times) for each in done.overloads):
        found = [each for each in done.overloads if (each.workload, each.times) == (workload, times)]
        rows.append(
            (
                workload,
                f"{times:g}×",
                spread([each.rate_qps for each in found], "{:,.0f}".format),
                spread([each.goodput_qps for each in found], "{:,.0f}".format),
                spread([100 * each.refused / each.requests for each in found], "{:.1f}".format),
                spread([each.refused_p50_ms for each in found], "{:.2f}".format),
                spread([each.refused_p99_ms for each in found], "{:.2f}".format),
                spread([each.cores_left for each in found], "{:.2f}".format),
            )
        )
    columns = ("", "of capacity", "asked/s", "on time/s", "% refused", "429 after ms, p50", "p99", "cores left")
    return Table("proteus above its capacity", columns, tuple(rows), OVERLOADED)


def _refusal_table(done: Benchmark) -> Table:
    rows = []
    for workload in dict.fromkeys(each.workload for each in done.refusal_costs):
        found = [each for each in done.refusal_costs if each.workload == workload]
        rows.append(
            (
                workload,
                spread([each.answered_us for each in found], _short),
                spread([each.refused_us for each in found], _short),
                spread([each.refused_us / each.answered_us for each in found], "{:.2f}".format),
            )
        )
    return Table("what a refusal costs proteus", ("", "answered, µs", "refused, µs", "ratio"), tuple(rows), REFUSALS)


def remarks(done: Benchmark) -> Iterator[str]:
    """What a reader should know of the peers, what they can't, and what went wrong."""
    yield from (f"{peer}: {remark}." for peer, remark in done.remarks.items())
    yield from (f"{each.peer}, {each.workload}: not measured, {each.error}." for each in done.lacks)
    yield from (
        f"**{each.peer}{f', {each.workload}' if each.workload else ''} failed**: {each.error}" for each in done.failures
    )


def spread(values: Sequence[float], text: Callable[[float], str]) -> str:
    """``12 (11–14)``: the median, the lowest and the highest; the values alone where they are one."""
    if not values:
        return UNKNOWN
    ordered = sorted(values)
    middle, half = len(ordered) // 2, len(ordered) % 2
    median = ordered[middle] if half else (ordered[middle - 1] + ordered[middle]) / 2
    return text(median) if len(ordered) == 1 else f"{text(median)} ({text(ordered[0])}–{text(ordered[-1])})"


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _made(done: Benchmark) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in done.versions.items())
    return (
        f"{done.rounds} rounds of {done.load_s:g} s for each load, {done.seconds / 60:.0f} minutes in all, on "
        f"{done.machine}; {versions}; {done.made_by.time[:10]}."
    )
