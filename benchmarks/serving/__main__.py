"""`proteus serve` beside other servers, in one run on this machine; about 25 minutes, and 3 before the first time.

Peers are installed into environments of their own under build/peers. All servers and clients are on 127.0.0.1.
Needs Linux, wrk and h2load (Debian: wrk, nghttp2-client).
"""

import argparse
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from benchmarks.machine import machine
from benchmarks.serving import clients, pages
from benchmarks.serving.aims import aims
from benchmarks.serving.extras import EXTRAS, Extras, Size
from benchmarks.serving.lab import laboratory
from benchmarks.serving.peers import ONNXRUNTIME, PEERS, Peer
from benchmarks.serving.processes import NotStarted
from benchmarks.serving.results import Benchmark, Client, Failure, Workload
from benchmarks.serving.rounds import OURS, Rounds
from benchmarks.serving.server import python_of
from benchmarks.serving.venvs import ROOT
from benchmarks.tables import put_between
from proteus_cli.store import made_by, to_json, write_bytes, write_text

PAGE = ROOT / "docs" / "performance.md"
WORKLOADS = tuple(
    Workload(f"{family}-{kind}", family, kind)
    for family, kind in (
        ("tiny", "json"),
        ("tiny", "binary"),
        ("tiny", "grpc"),
        ("cnn", "json"),
        ("cnn", "binary"),
        ("image", "binary"),
    )
)
ROUNDS, LOAD_S, INSTANCES = 5, 1.3, 1
OVERLOAD_S = 2.0
CLIENT_S = 0.7
CLIENT_FRACTION = 0.7  # of the Poisson arrivals that the client can make, it is asked at most this part


def main() -> None:
    """Measure and deliver; exit with 1 where an answer was wrong, proteus failed, or an aim is missed."""
    options = _options()
    _require_tools()
    signal.signal(signal.SIGTERM, _interrupt)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    with Console(stderr=True).status("") as status:
        say: Callable[[str], None] = status.update if sys.stderr.isatty() else lambda text: print(text, file=sys.stderr)
        done = _measured(options, say)
    _deliver(done, options)
    is_bad = any(each.peer == OURS or each.is_wrong for each in done.failures)
    missed = not all(aim.is_reached for aim in aims(done))
    raise SystemExit(1 if is_bad or missed else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peers, workloads = [peer.name for peer in PEERS], [workload.name for workload in WORKLOADS]
    parser.add_argument("--peers", type=_some(peers), default=tuple(peers), metavar="A,B", help=", ".join(peers))
    parser.add_argument(
        "--workloads", type=_some(workloads), default=tuple(workloads), metavar="A,B", help=", ".join(workloads)
    )
    parser.add_argument(
        "--extras", type=_some(EXTRAS), default=EXTRAS, metavar="A,B", help=f"{', '.join(EXTRAS)}; or an empty list"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="5, each in the other order than the one before")
    parser.add_argument("--seconds", type=float, default=LOAD_S, help="for each load: 1.3")
    parser.add_argument(
        "--instances", type=int, default=INSTANCES, help="copies of each model: 1 (for proteus, devices)"
    )
    parser.add_argument("--quick", action="store_true", help="one round of 1 s, short extras: 6 minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/performance.md")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
    if options.rounds < 1 or options.seconds <= 0 or options.instances < 1:
        parser.error("--rounds, --seconds and --instances must be above 0")
    is_whole = all(getattr(options, name) == parser.get_default(name) for name in ("peers", "workloads", "extras"))
    if options.docs and (options.quick or not is_whole):
        parser.error("--docs takes a full run: without --quick, --peers, --workloads and --extras")
    return options


def _some(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name for name in text.split(",") if name)
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no {unknown[0]}; there are {', '.join(known)}")
        return names

    return parse


def _require_tools() -> None:
    for tool, package in (("wrk", "wrk"), ("h2load", "nghttp2-client")):
        if shutil.which(tool) is None:
            raise SystemExit(f"error: no `{tool}` here\n\nhint: apt-get install {package}")


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM ends it as Ctrl-C does: whatever runs is ended on the way out."""
    raise KeyboardInterrupt


def _measured(options: argparse.Namespace, say: Callable[[str], None]) -> Benchmark:
    start_s = time.perf_counter()
    workloads = tuple(workload for workload in WORKLOADS if workload.name in options.workloads)
    failures: list[Failure] = []
    peers = _installed([peer for peer in PEERS if peer.name in options.peers], failures, say)
    say("models, and a workspace for proteus: profile and plans")
    with laboratory(options.instances) as lab:
        say("the clients")
        able = clients.measure(lab, workloads, CLIENT_S)
        limits = {each.workload: CLIENT_FRACTION * each.poisson_qps for each in able}
        rounds = Rounds(lab, options.seconds, limits, say, failures=failures)
        for number in range(options.rounds):
            rounds.run(number, peers, workloads)
        extras = Extras(lab, _size(options), say, failures)
        extras.run(peers, options.extras)
    return _benchmark(options, peers, workloads, able, rounds, extras, time.perf_counter() - start_s)


def _size(options: argparse.Namespace) -> Size:
    return Size(3.0, 1, OVERLOAD_S) if options.quick else Size(10.0, options.rounds, OVERLOAD_S)


def _installed(peers: Sequence[Peer], failures: list[Failure], say: Callable[[str], None]) -> list[Peer]:
    """Those whose environment could be made; the others are noted."""
    there = []
    for peer in peers:
        say(f"installing {peer.name}")
        try:
            python_of(peer)
            there.append(peer)
        except NotStarted as error:
            failures.append(Failure.of(peer.name, "", error))
    return there


def _benchmark(
    options: argparse.Namespace,
    peers: Sequence[Peer],
    workloads: tuple[Workload, ...],
    able: Sequence[Client],
    rounds: Rounds,
    extras: Extras,
    seconds: float,
) -> Benchmark:
    return Benchmark(
        made_by=made_by(),
        command=_command(options),
        machine=machine(),
        versions=_versions(peers),
        rounds=options.rounds,
        load_s=options.seconds,
        instances=options.instances,
        seconds=seconds,
        peers=tuple(peer.name for peer in PEERS if peer.name in options.peers),
        workloads=workloads,
        clients=tuple(able),
        loads=tuple(rounds.loads),
        latencies=tuple(rounds.latencies),
        footprints=tuple(extras.footprints),
        idle=tuple(extras.idle),
        crowds=tuple(extras.crowds),
        overloads=tuple(extras.overloads),
        refusal_costs=tuple(extras.refusal_costs),
        remarks={peer.name: peer.remark for peer in peers if peer.remark},
        lacks=tuple(
            Failure(peer.name, kind, why)
            for peer in peers
            for kind, why in peer.lacks.items()
            if any(workload.kind == kind for workload in workloads)
        ),
        failures=tuple(rounds.failures),
    )


def _versions(peers: Sequence[Peer]) -> dict[str, str]:
    """Ours, and the first package of each peer."""
    pinned = {name: number for name, _, number in (peer.packages[0].partition("==") for peer in peers if peer.packages)}
    return {"proteus": version("proteus-serving"), "onnxruntime": ONNXRUNTIME.partition("==")[2]} | pinned


def _command(options: argparse.Namespace) -> str:
    """What measures this again."""
    parts = ["python -m benchmarks.serving"]
    if options.quick:
        parts.append("--quick")
    for name, whole in (
        ("peers", [peer.name for peer in PEERS]),
        ("workloads", [workload.name for workload in WORKLOADS]),
        ("extras", EXTRAS),
    ):
        if tuple(getattr(options, name)) != tuple(whole):
            parts.append(f"--{name} {','.join(getattr(options, name))}")
    usual = {"instances": INSTANCES} if options.quick else {"rounds": ROUNDS, "seconds": LOAD_S, "instances": INSTANCES}
    parts += [
        f"--{name} {getattr(options, name):g}" for name, value in usual.items() if getattr(options, name) != value
    ]
    return " ".join(parts)


def _deliver(done: Benchmark, options: argparse.Namespace) -> None:
    Console(width=None if sys.stdout.isatty() else 150).print(pages.shown(done))
    if options.json:
        write_bytes(options.json, to_json(done))
    if options.docs:
        page = PAGE.read_text(encoding="utf-8")
        write_text(PAGE, put_between(page, pages.BEGIN, pages.END, pages.markdown(done)))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
