"""Connections that are kept alive, idle, and more of them than a server may take."""

import selectors
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from benchmarks.serving import load
from benchmarks.serving.lab import HOSTED
from benchmarks.serving.load import Target
from benchmarks.serving.peers import Peer
from benchmarks.serving.results import Crowd, Footprint, IdleConnections, Workload
from benchmarks.serving.server import Lab, serving

SETTLED_S = 1.0
CROWD_WITHIN_S = 6.0
CROWD_STEP = 100  # connections that are opened at a time, so that it isn't the backlog that is measured
OTHERS = 16
CLOSED = "closed"


def footprint(peer: Peer, lab: Lab) -> Footprint:
    """All three families hosted, each on one route, and nothing asked but one round of samples."""
    routes = [(family, "binary" if "binary" in peer.speaks else "json") for family in HOSTED]
    with serving(peer, routes, lab) as server:
        for route in routes:
            server.require_right(route)
        time.sleep(SETTLED_S)
        tree = server.process.tree
        return Footprint(peer.name, tree.memory_bytes(), tree.threads(), len(tree.members()))


def idle_connections(peer: Peer, lab: Lab, workload: Workload, *, count: int, window_s: float) -> IdleConnections:
    """What so many idle connections cost: CPU, memory, and throughput of others."""
    with serving(peer, [workload.route], lab) as server:
        server.require_right(workload.route)
        target, tree = server.target(workload.route), server.process.tree
        load.saturate(target, SETTLED_S)
        without_rps = load.saturate(target, 2 * SETTLED_S).rps
        without_s, without_bytes = _idle_cpu_s(target, window_s), tree.memory_bytes()
        with held(target, count):
            with_s, with_bytes = _idle_cpu_s(target, window_s), tree.memory_bytes()
            with_rps = load.saturate(target, 2 * SETTLED_S).rps
    each = (with_bytes - without_bytes) / count
    return IdleConnections(peer.name, count, window_s, (without_s, with_s), each, (without_rps, with_rps))


def _idle_cpu_s(target: Target, window_s: float) -> float:
    time.sleep(SETTLED_S)
    before_s = target.tree.cpu_s()
    time.sleep(window_s)
    return target.tree.cpu_s() - before_s


@contextmanager
def held(target: Target, count: int) -> Iterator[None]:
    """So many connections, each of which has asked once and stays."""
    sockets: list[socket.socket] = []
    request = target.requests[0]
    try:
        for _ in range(count):
            line = socket.create_connection(("127.0.0.1", target.port), timeout=load.FIRST_WITHIN_S)
            sockets.append(line)
            line.sendall(request)
            if not line.recv(2**16).startswith(b"HTTP/1.1 200"):
                raise load.LoadFailed(f"connection {len(sockets)} of {count} wasn't answered")
        yield
    finally:
        for line in sockets:
            line.close()


def crowd(peer: Peer, lab: Lab, workload: Workload, *, count: int) -> Crowd:
    """So many connections at once, while a few that were there before go on asking."""
    with serving(peer, [workload.route], lab) as server, ThreadPoolExecutor(1) as thread:
        server.require_right(workload.route)
        target = server.target(workload.route)
        load.saturate(target, SETTLED_S)
        alone = load.saturate(target, 2 * SETTLED_S, connections=OTHERS)
        others = thread.submit(load.saturate, target, CROWD_WITHIN_S, connections=OTHERS)
        time.sleep(SETTLED_S / 2)
        statuses = _crowd_statuses(target, count, time.monotonic() + CROWD_WITHIN_S)
        beside = others.result()
    answered = statuses.count("200")
    silent = statuses.count("")
    return Crowd(peer.name, count, answered, count - answered - silent, silent, (alone.rps, beside.rps), beside.failed)


def _crowd_statuses(target: Target, count: int, stop_s: float) -> list[str]:
    """By connection: the HTTP status, ``closed``, or nothing."""
    statuses = [""] * count
    lines: list[socket.socket] = []
    with selectors.DefaultSelector() as selector:
        try:
            while len(lines) < count and time.monotonic() < stop_s:
                for index in range(len(lines), min(count, len(lines) + CROWD_STEP)):
                    line = socket.socket()
                    line.setblocking(False)
                    lines.append(line)
                    line.connect_ex(("127.0.0.1", target.port))
                    selector.register(line, selectors.EVENT_WRITE, index)
                _note_answers(selector, target.requests[0], statuses, wait_s=0.01)
            while "" in statuses and time.monotonic() < stop_s:
                _note_answers(selector, target.requests[0], statuses, wait_s=0.1)
        finally:
            for line in lines:
                line.close()
    return statuses


def _note_answers(selector: selectors.BaseSelector, request: bytes, statuses: list[str], *, wait_s: float) -> None:
    for key, events in selector.select(wait_s):
        line = key.fileobj
        assert isinstance(line, socket.socket)
        try:
            if events & selectors.EVENT_WRITE:
                line.send(request)
                selector.modify(line, selectors.EVENT_READ, key.data)
            else:
                statuses[key.data] = line.recv(2**12)[9:12].decode("latin-1") or CLOSED
                selector.unregister(line)  # but it stays open
        except OSError:
            statuses[key.data] = CLOSED
            selector.unregister(line)
