"""`proteus serve` beside mosec and Triton, and its extras, on this machine; 15 minutes, in parts (`--parts`).

* rivals: CPU per request, requests per second, and latency at half load, in rounds (7 minutes).
* overload: answers on time at 1 and 3 times the capacity, and the CPU time of a refusal (4 minutes).
* cluster: a device in a process of its own, or behind an agent, beside one in a thread (3 minutes).
* large-json: how long half a million values in JSON hold up others (half a minute).

Peers are installed into build/peers. All servers and clients are on 127.0.0.1. Needs Linux, wrk and h2load (Debian:
wrk, nghttp2-client). Exits with 1 where an aim is missed.
"""

import argparse
import json
import os
import re
import socket
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median

import numpy as np

from benchmarks.frame import ROOT, Aim, Found, Run, Table, benchmark, spread
from benchmarks.serving import load
from benchmarks.serving.load import Target
from benchmarks.serving.peers import PROTEUS, RIVALS, SLO_S, Lab, Route, Server, laboratory, proteus, serving
from benchmarks.serving.processes import NotStarted, running
from benchmarks.serving.wire import whole_request

WORKLOADS: tuple[Route, ...] = (
    ("tiny", "json"), ("tiny", "binary"), ("tiny", "grpc"), ("cnn", "json"), ("cnn", "binary"), ("image", "binary"),
)  # fmt: skip
LOAD_S, QUICK_S, WARM_UP_S = 1.3, 0.7, 0.3
CPU_AT_MOST = {  # of a rival's CPU per request, by workload
    "tiny-json": {"mosec": 0.7, "triton": 0.6},
    "tiny-binary": {"mosec": 0.6, "triton": 0.6},
    "cnn-binary": {"mosec": 0.95, "triton": 1.0},
    "tiny-grpc": {"triton": 1.0},
}
FASTER_ON, SOONER_ON = ("tiny-json", "tiny-binary", "cnn-binary"), ("tiny-json", "tiny-binary")
GRPC_CPU_US = 60.0

Measured = defaultdict[tuple[str, str, str], list[float]]
"""By peer, workload and measure: a figure for each round."""


def rivals(run: Run) -> Found:
    """Rounds over peers and workloads in turns."""
    found, remarks = Measured(list), list[str]()
    chosen = [route for route in WORKLOADS if f"{'-'.join(route)}" in run.options.workloads]
    peers = [peer for peer in (*RIVALS, PROTEUS) if peer.name in run.options.peers]
    with laboratory() as lab:
        for number in range(run.rounds):
            for peer in peers if number % 2 == 0 else reversed(peers):
                for route in (route for route in chosen if route[1] in peer.speaks):
                    run.say(f"round {number + 1}: {peer.name}, {'-'.join(route)}")
                    try:
                        with serving(peer, [route], lab) as server:
                            _measure(server, route, QUICK_S if run.is_quick else LOAD_S, found)
                    except (load.LoadFailed, NotStarted) as error:
                        if peer is PROTEUS or isinstance(error, load.WrongAnswer):
                            raise
                        remarks.append(f"{peer.name}, {'-'.join(route)}: {error}")
    measures = ("CPU µs/request", "requests/s", "p50 ms", "p99 ms")
    rows = tuple(
        (
            f"{'-'.join(route)}, {peer.name}",
            *(spread(found[peer.name, "-".join(route), each], ",.4g") for each in measures),
        )
        for route in chosen
        for peer in peers
        if route[1] in peer.speaks
    )
    note = "Medians over rounds. Latency: of a steady rate of half of the requests/s."
    table = Table("Proteus beside other servers", ("", *measures), rows, note)
    return Found((table,), tuple(_rival_aims(found)), tuple(dict.fromkeys(remarks)))


def _measure(server: Server, route: Route, load_s: float, found: Measured) -> None:
    """Saturation, and latency at half of it; for proteus at half of each rival's, too."""
    target, workload, peer = server.target(route), "-".join(route), server.peer.name
    load.saturate(target, WARM_UP_S)
    full = load.saturate(target, load_s)
    found[peer, workload, "CPU µs/request"].append(full.cpu_us)
    found[peer, workload, "requests/s"].append(full.rps)
    if route[1] == "grpc":
        return  # one request at a time on each connection, as paced loads have it, is no use of HTTP/2
    for of in (peer, *(rival.name for rival in RIVALS if server.peer is PROTEUS)):
        if rates := found.get((of, workload, "requests/s")):
            latency_ms = load.paced(target, median(rates) / 2, load_s).get(200, np.array([np.nan]))
            suffix = "" if of == peer else f" at half of {of}"
            for part in (50, 99):
                found[peer, workload, f"p{part} ms{suffix}"].append(float(np.percentile(latency_ms, part)))


def _rival_aims(found: Measured) -> Iterator[Aim]:
    def compared(workload: str, rival: str, measure: str, limit: float, name: str, *, is_most: bool) -> Iterator[Aim]:
        """Of ours to theirs, where both are known; latencies at the rival's half load."""
        own = f"{measure} at half of {rival}" if measure == "p99 ms" else measure
        ours, theirs = found.get(("proteus", workload, own)), found.get((rival, workload, measure))
        if ours and theirs:
            yield Aim(f"{workload}, {name}", median(ours) / median(theirs), limit, f"of {rival}'s", is_most)

    for workload, limits in CPU_AT_MOST.items():
        for rival, limit in limits.items():
            yield from compared(workload, rival, "CPU µs/request", limit, "CPU per request", is_most=True)
    for rival in (each.name for each in RIVALS):
        for workload in FASTER_ON:
            yield from compared(workload, rival, "requests/s", 1.0, "requests/s", is_most=False)
        for workload in SOONER_ON:
            yield from compared(workload, rival, "p99 ms", 1.0, "p99 at that half load", is_most=True)
    if grpc_us := found.get(("proteus", "tiny-grpc", "CPU µs/request")):
        yield Aim("tiny-grpc, CPU per request", median(grpc_us), GRPC_CPU_US, "µs", is_most=True)


# --- overload

OVERLOADED: tuple[Route, ...] = (("wide", "binary"), ("cnn", "json"), ("cnn", "binary"), ("cnn", "grpc"))
TIMES = (1.0, 3.0)
AT_ONCE = (64, 640)  # requests, for a few refusals and for many
OVERLOAD_S, WAITING = 2.0, 512  # more connections than may wait within the SLO
GOODPUT_KEPT = {"wide": 0.95, "cnn": 0.85}
REFUSED_WITHIN_MS, REFUSAL_COST = 2.0, 0.25
_COUNTED = re.compile(r'^proteus_requests_total\{.*outcome="(\w+)".*\} (\S+)$', re.MULTILINE)


def overload(run: Run) -> Found:
    """Proteus above its capacity; the client shares its cores."""
    rows, aims = list[tuple[str, ...]](), list[Aim]()
    with laboratory() as lab:
        for route in OVERLOADED[:1] if run.is_quick else OVERLOADED:
            name, figures = "-".join(route), defaultdict[str, list[float]](list)
            run.say(f"overload: {name}")
            with serving(PROTEUS, [route], lab) as server:
                target = server.target(route)
                load.saturate(target, WARM_UP_S)
                for _ in range(run.rounds):
                    answered_us, refused_us = _costs(server, target)
                    figures["answered, CPU µs"].append(answered_us)
                    figures["refused, CPU µs"].append(refused_us)
                    figures["ratio"].append(refused_us / answered_us)
                    if route[1] != "grpc":
                        _goodput(target, load.saturate(target, OVERLOAD_S).rps, figures)
            rows += [(f"{name}: {what}", spread(values)) for what, values in figures.items()]
            aims.append(
                Aim(
                    f"{name}, CPU of a refused request",
                    median(figures["ratio"]),
                    REFUSAL_COST,
                    "of an answered one's",
                    True,
                )
            )
            if kept := figures.get("goodput at 3×, of that at 1×"):
                aims.append(Aim(f"{name}, goodput at 3×", median(kept), GOODPUT_KEPT[route[0]], "of that at 1×", False))
            if refused_ms := figures.get("429 at 3×, ms"):
                aims.append(Aim(f"{name}, 429 at 3×, median", median(refused_ms), REFUSED_WITHIN_MS, "ms", True))
    return Found((Table("Above the capacity", ("measure", "median (range)"), tuple(rows)),), tuple(aims))


def _costs(server: Server, target: Target) -> tuple[float, float]:
    """CPU µs of an answered and of a refused request: two loads with different parts of refusals give both."""
    counts, cpu_us = [], []
    for at_once in AT_ONCE:
        before, cpu_s = _outcomes(server), target.tree.cpu_s()
        load.flood(target, OVERLOAD_S, at_once)
        cpu_us.append(1e6 * (target.tree.cpu_s() - cpu_s))
        ended = _outcomes(server) - before
        counts.append((ended.total() - ended["rejected"], ended["rejected"]))
    answered_us, refused_us = np.linalg.solve(counts, cpu_us)
    return float(answered_us), float(refused_us)


def _outcomes(server: Server) -> Counter[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=load.WITHIN_S) as page:
        text = page.read().decode()
    counted = Counter[str]()
    for outcome, count in _COUNTED.findall(text):
        counted[outcome] += int(float(count))
    return counted


def _goodput(target: Target, capacity_qps: float, figures: dict[str, list[float]]) -> None:
    """Answers within the SLO at each multiple of the capacity."""
    kept = []
    for times in TIMES:
        by_status = load.paced(target, times * capacity_qps, OVERLOAD_S, WAITING)
        answered_ms = by_status.get(200, np.array([]))
        kept.append(float(np.count_nonzero(answered_ms <= 1000 * SLO_S)) / OVERLOAD_S)
        if times == TIMES[-1] and 429 in by_status:
            figures["429 at 3×, ms"].append(float(np.median(by_status[429])))
    figures["on time/s at 1×"].append(kept[0])
    figures["goodput at 3×, of that at 1×"].append(kept[1] / kept[0])


# --- devices in other processes

HOST, REMOTE_MAX_RATIO = "a", 1.5
SMALL: tuple[Route, ...] = (("cnn", "binary"),)


def cluster(run: Run) -> Found:
    """The same device in a thread of the server, in a process of its own, and behind an agent on loopback."""
    found: dict[str, dict[str, list[float]]] = {}
    with laboratory() as lab, _agent(lab) as options:
        peers = {
            "thread": replace(PROTEUS, command=proteus("--set=executor=thread")),
            "process": replace(PROTEUS, command=proteus("--set=executor=process")),
            "agent": replace(PROTEUS, command=proteus(*options)),
        }
        for _ in range(run.rounds):
            for name, peer in peers.items():
                figures = found.setdefault(name, defaultdict(list))
                with serving(
                    peer, SMALL, replace(lab, workspace=lab.workspace.with_name("remote")) if name == "agent" else lab
                ) as server:
                    target = server.target(SMALL[0])
                    load.saturate(target, WARM_UP_S)
                    own_s = target.tree.own_cpu_s()
                    full = load.saturate(target, LOAD_S)
                    figures["server's CPU µs/request"].append(1e6 * (target.tree.own_cpu_s() - own_s) / full.requests)
                    figures["requests/s"].append(full.rps)
                    latency_ms = load.paced(target, median(found["thread"]["requests/s"]) / 2, LOAD_S)[200]
                    figures["p99 ms at half of threads"].append(float(np.percentile(latency_ms, 99)))
    columns = tuple(found["thread"])
    rows = tuple((name, *(spread(of[column]) for column in columns)) for name, of in found.items())
    cpu = {name: median(of[columns[0]]) for name, of in found.items()}
    aim = Aim(
        "the server's CPU behind an agent",
        cpu["agent"] / cpu["process"],
        REMOTE_MAX_RATIO,
        "of that beside a process",
        True,
    )
    return Found((Table("A device in another process, cnn-binary", ("device", *columns), rows),), (aim,))


@contextmanager
def _agent(lab: Lab) -> Iterator[Sequence[str]]:
    """An agent with the same device, and a plan for it in a workspace of its own; options of the server."""
    remote = replace(lab, workspace=lab.workspace.with_name("remote"))
    (remote.workspace / "engines").mkdir(parents=True)
    for name in ("models", "catalog.toml"):
        (remote.workspace / "engines" / name).symlink_to(lab.workspace / "engines" / name)
    state = lab.directory / "agent"
    state.mkdir()
    (state / "proteus.toml").write_text((lab.workspace / "proteus.toml").read_text())
    command = (
        sys.executable,
        "-m",
        "proteus_cli",
        "agent",
        "--listen",
        "127.0.0.1:0",
        "--state",
        str(state),
        "-w",
        str(state),
    )
    with running(command, os.environ | {"PYTHONPATH": str(ROOT)}, log=state / "log", directory=state) as process:
        stop_s = time.monotonic() + load.WITHIN_S
        while (ready := re.search(r"^ready (\S+)", (state / "log").read_text(), re.MULTILINE)) is None:
            process.require_alive()
            assert time.monotonic() < stop_s, process.log_end()
            time.sleep(0.05)
        hosts = remote.workspace / "hosts.toml"
        hosts.write_text(f'[hosts.{HOST}]\naddress = "{ready[1]}"\n')
        options = ("--cluster", str(hosts))
        remote.proteus("profile", *options, "--device", f"{HOST}/cpu0", "--max-batch", "32", "--budget", "20s")
        remote.proteus("plan", "--demand", "cnn=1000000qps", *options, "-o", "plans/cnn.json")
        yield options


# --- large JSON

VALUES, HELD_MS = 500_000, 100.0  # as many values as JSON may have; the bound of docs/security.md


def large_json(run: Run) -> Found:
    """The longest time in which a client beside the large requests has no answer that the server lives."""
    gaps_ms = list[float]()
    with laboratory() as lab, serving(PROTEUS, [("image", "json")], lab) as server:
        pixels = lab.samples["image"].rows[0].size
        rows = np.repeat(lab.samples["image"].rows[:1], VALUES // pixels, axis=0)
        tensor = {
            "name": "x",
            "shape": list(rows.shape),
            "datatype": "FP32",
            "data": rows.ravel().astype(float).round(12).tolist(),
        }
        body = json.dumps({"parameters": {"timeout": 10_000_000}, "inputs": [tensor]}).encode()
        request = whole_request(
            "/v2/models/image/infer", {"Content-Type": "application/json", "Connection": "close"}, body
        )
        for _ in range(3 * run.rounds):
            gaps_ms.append(1000 * _gap_s(server.http_port, request))
    aim = Aim(f"{len(rows) * pixels:,} values in JSON hold others", median(gaps_ms), HELD_MS, "ms", is_most=True)
    row = (f"{len(body) / 2**20:.1f} MiB", spread(gaps_ms, ".1f"))
    return Found((Table("Large JSON", ("body", "longest gap of others, ms"), (row,)),), (aim,))


def _gap_s(port: int, request: bytes) -> float:
    """From the moment that the whole request was sent until its answer."""
    health = b"GET /v2/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as large, socket.create_connection(("127.0.0.1", port)) as other:
        large.sendall(request)
        large.setblocking(False)
        gap_s, is_answered, answer = 0.0, False, b""
        while not is_answered:
            start_s = time.perf_counter()
            other.sendall(health)
            assert other.recv(4096).startswith(b"HTTP/1.1 200 ")
            gap_s = max(gap_s, time.perf_counter() - start_s)
            try:
                answer += large.recv(2**16)
                is_answered = answer.startswith(b"HTTP/1.1 200 ")
                assert is_answered or len(answer) < len("HTTP/1.1 200 "), answer[:300]
            except BlockingIOError:
                time.sleep(0.001)
    return gap_s


PARTS = {"rivals": rivals, "overload": overload, "cluster": cluster, "large-json": large_json}

if __name__ == "__main__":
    load.require_tools()
    options = argparse.ArgumentParser(prog="python -m benchmarks.serving")
    peers = ",".join(peer.name for peer in (*RIVALS, PROTEUS))
    options.add_argument("--peers", default=peers, help=f"of rivals: {peers}")
    workloads = ",".join("-".join(route) for route in WORKLOADS)
    options.add_argument("--workloads", default=workloads, help=f"of rivals: {workloads}")
    sys.exit(benchmark(__doc__, PARTS, rounds=5, parser=options))
