"""CPU per batch of a device behind an agent, beside one in a process of this machine, in turns.

And of a bare round trip of as many bytes over the same channel: what a remote batch costs besides at least.
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import uvloop

from benchmarks.cluster.channels import Echoed, echoing, tls_channel
from benchmarks.cluster.processes import children, cpu_s
from proteus_cli.backends.affinity import usable_cores
from proteus_cli.backends.base import Part
from proteus_cli.backends.discovery import discover
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.serving.cluster.new_key import write_key
from proteus_cli.serving.devices.executor import Batch, BatchResult
from proteus_cli.serving.devices.process.executor import ProcessExecutor
from proteus_cli.serving.devices.process.messages import CpuSpec
from proteus_cli.serving.devices.remote.channel.address import AgentAddress
from proteus_cli.serving.devices.remote.channel.tls import cluster_tls
from proteus_cli.serving.devices.remote.links.link import AgentLink
from proteus_cli.serving.devices.remote.sessions.executor import RemoteExecutor
from proteus_cli.serving.lifecycle import running
from proteus_cli.settings import DeviceSettings

KEY = VariantKey("signals", "signals-xs")
AHEAD = 2  # batches that are submitted at once
LARGE_BYTES = 16 * 2**10
KEY_FILE = "cluster.pem"


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one executor, in seconds per batch: the CPU of the server's process, and of all processes together."""

    server_s: float
    all_s: float


@dataclass(frozen=True, slots=True)
class Compared:
    """Batches of so many bytes in a process here, and behind an agent: medians over rounds, in turns."""

    size: int
    local: Figures
    remote: Figures
    ratios: tuple[float, ...]  # of the server's CPU, of each round
    round_trip_s: float  # the server's CPU for an encrypted round trip of as many bytes, without a batch

    @property
    def ratio(self) -> float:
        """The median over rounds: both executors of a round had the same other work beside them."""
        return statistics.median(self.ratios)

    @property
    def bound(self) -> float:
        """The ratio, if a remote batch cost a local one and such a round trip; the local one has its socket in it."""
        return (self.local.server_s + self.round_trip_s) / self.local.server_s


def measure(model: Path, batches: int, rounds: int) -> list[Compared]:
    """Batches of one row, and of 16 KiB."""
    with tempfile.TemporaryDirectory() as directory, _agent(Path(directory)) as (address, pid):
        key = Path(directory) / KEY_FILE
        with echoing("tls", str(key)) as port:
            return uvloop.run(_measure(address, pid, key, port, model, batches, rounds))


@contextmanager
def _agent(directory: Path) -> Iterator[tuple[AgentAddress, int]]:
    key = directory / KEY_FILE
    write_key(key)
    command = [sys.executable, "-m", "proteus_cli", "agent", "--listen", "127.0.0.1:0", "--key", str(key)]
    command += ["--state", str(directory / "agent"), "-w", str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        yield AgentAddress("a", "127.0.0.1", port, cluster_tls(key, listens=False)), process.pid
    finally:
        process.terminate()
        process.wait()


async def _measure(
    address: AgentAddress, pid: int, key: Path, echo_port: int, model: Path, batches: int, rounds: int
) -> list[Compared]:
    device, link = discover(DeviceSettings())[0], AgentLink(address)
    channel = await tls_channel(key, echo_port)
    async with running(link.run):
        await link.tried()
        local = ProcessExecutor(CpuSpec(device), print)
        remote = link.open_device(msgspec.structs.replace(device, id="a/cpu0"), 1, print)
        assert isinstance(remote, RemoteExecutor)
        assert local.pid is not None
        signature = await local.load(KEY, model, 8)
        await remote.load(KEY, model, 8)
        row_bytes = sum(spec.row_bytes for spec in signature.inputs)
        compared = []
        for rows in (1, LARGE_BYTES // row_bytes):
            part = signature.sample_part(rows, np.random.default_rng(0))
            behind = {local: [local.pid], remote: [pid, *children(pid)]}
            found: dict[object, list[Figures]] = {local: [], remote: []}
            echoed, trips_s = Echoed(channel, rows * row_bytes, AHEAD), list[float]()
            for number in range(rounds):
                for executor in (local, remote) if number % 2 == 0 else (remote, local):
                    found[executor].append(await _run(executor, part, behind[executor], batches))
                trips_s.append(await echoed.cpu_s(batches))
            ratios = tuple(far.server_s / near.server_s for near, far in zip(found[local], found[remote], strict=True))
            medians, trip_s = (_medians(found[local]), _medians(found[remote])), statistics.median(trips_s)
            compared.append(Compared(rows * row_bytes, *medians, ratios, trip_s))
        channel.close()
        local.close()
        remote.close()
    return compared


def _medians(figures: list[Figures]) -> Figures:
    return Figures(statistics.median(f.server_s for f in figures), statistics.median(f.all_s for f in figures))


async def _run(executor: ProcessExecutor | RemoteExecutor, part: Part, pids: list[int], batches: int) -> Figures:
    """Run batches, always `AHEAD` at once; each must have its rows."""
    loop, left, right = asyncio.get_running_loop(), batches, 0
    ended: asyncio.Future[None] = loop.create_future()

    def submit() -> None:
        nonlocal left
        left -= 1
        executor.submit(Batch(KEY, [part], part[0]), done)

    def done(result: BatchResult | Exception) -> None:
        nonlocal right
        assert isinstance(result, BatchResult), result
        assert len(result.outputs[0]) == part[0]
        right += 1
        if left:
            submit()
        elif right == batches:
            ended.set_result(None)

    server_s, others_s = time.process_time(), sum(map(cpu_s, pids))
    for _ in range(AHEAD):
        submit()
    await ended
    server_s = time.process_time() - server_s
    others_s = sum(map(cpu_s, pids)) - others_s
    return Figures(server_s / batches, (server_s + others_s) / batches)


async def _longest_gap_s(address: AgentAddress, seconds: float) -> float:
    link = AgentLink(address)
    async with running(link.run):
        await link.tried()
        session, longest_s = link.session, 0.0
        assert session is not None
        seen, seen_s, stop_s = session.bytes_received, time.perf_counter(), time.perf_counter() + seconds
        while time.perf_counter() < stop_s:
            await asyncio.sleep(0.002)
            if session.bytes_received != seen:
                now_s = time.perf_counter()
                longest_s, seen, seen_s = max(longest_s, now_s - seen_s), session.bytes_received, now_s
        return longest_s


def gaps(seconds: float) -> dict[int, float]:
    """The longest time without a byte from an idle agent, by the number of processes beside that use all CPU they get.

    None, one for each core, and four.
    """
    cores, found = len(usable_cores()), dict[int, float]()
    with tempfile.TemporaryDirectory() as directory, _agent(Path(directory)) as (address, _):
        for hogs in (0, cores, 4 * cores):
            with _busy(hogs):
                found[hogs] = uvloop.run(_longest_gap_s(address, seconds))
    return found


@contextmanager
def _busy(processes: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for each in started:
            each.kill()
            each.wait()
