"""Round trips of tensors over TLS as Proteus uses it, and over pyzmq with CURVE, where that is installed."""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
import uvloop

from proteus_cli.serving.cluster.new_key import write_key
from proteus_cli.serving.devices.remote.channel.channel import FrameChannel
from proteus_cli.serving.devices.remote.channel.frames import FrameParser
from proteus_cli.serving.devices.remote.channel.messages import Ping
from proteus_cli.serving.devices.remote.channel.tls import cluster_tls

SIZES = (16 * 2**10, 602 * 1000)
"""Bytes: a small batch, and an image of 224 × 224 pixels in FP32."""


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Of one size over one channel, one at a time: the seconds of each, and of the client's CPU for each."""

    channel: str
    size: int
    p50_s: float
    p99_s: float
    client_cpu_s: float

    @property
    def gb_per_s(self) -> float:
        return self.size / self.p50_s / 1e9


def measure(times: int) -> list[RoundTrips]:
    """All channels that are installed here, in turns for each size."""
    with tempfile.TemporaryDirectory() as directory:
        key = Path(directory) / "cluster.pem"
        write_key(key)
        found = [tls_round_trips(key, size, times) for size in SIZES]
    return found + [_curve(size, times) for size in SIZES] if find_spec("zmq") is not None else found


@contextmanager
def echoing(*arguments: str) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.cluster.echo", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


class _Asking:
    def __init__(self) -> None:
        self.answered: asyncio.Future[None] | None = None

    def received(self, _message: Ping, _behind: memoryview) -> None:
        assert self.answered is not None
        self.answered.set_result(None)

    def ended(self, reason: str) -> None:
        raise SystemExit(f"error: the channel has ended: {reason}")


class Echoed:
    """Round trips of so many bytes over a channel, with nothing of a batch: some at once, as a server's batches are."""

    def __init__(self, channel: FrameChannel[Ping], size: int, ahead: int) -> None:
        self._channel, self._content, self._ahead = channel, bytes(size), ahead
        self._to_send = self._to_come = 0
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def cpu_s(self, times: int) -> float:
        """This process's CPU for each of so many."""
        self._to_send = self._to_come = times
        self._channel.owner, self._ended = self, asyncio.get_running_loop().create_future()
        cpu_s = time.process_time()
        for _ in range(self._ahead):
            self._send()
        await self._ended
        return (time.process_time() - cpu_s) / times

    def _send(self) -> None:
        self._to_send -= 1
        self._channel.send(Ping(0.0), [self._content])

    def received(self, _message: Ping, _behind: memoryview) -> None:
        self._to_come -= 1
        if self._to_send:
            self._send()
        elif not self._to_come:
            self._ended.set_result(None)

    def ended(self, reason: str) -> None:
        raise SystemExit(f"error: the channel has ended: {reason}")


async def tls_channel(key: Path, port: int) -> FrameChannel[Ping]:
    """A channel to `echoing` on this machine."""
    channel: FrameChannel[Ping] = FrameChannel(msgspec.msgpack.Decoder(Ping), FrameParser())
    tls = cluster_tls(key, listens=False)
    await asyncio.get_running_loop().create_connection(lambda: channel, "127.0.0.1", port, ssl=tls)
    return channel


def tls_round_trips(
    key: Path, size: int, times: int, through: Callable[[int], AbstractContextManager[int]] = nullcontext
) -> RoundTrips:
    """Over TLS as Proteus uses it; ``through`` gives the port that leads to another one, for as long as it is open."""

    async def run(port: int) -> RoundTrips:
        channel = await tls_channel(key, port)
        channel.owner = asking = _Asking()
        loop = asyncio.get_running_loop()
        tensors, taken_s = bytes(size), []
        for number in range(times + times // 10):
            if number == times // 10:  # warm by now
                cpu_s = time.process_time()
            start_s, asking.answered = time.perf_counter(), loop.create_future()
            channel.send(Ping(0.0), [tensors])
            await asking.answered
            taken_s.append(time.perf_counter() - start_s)
        cpu_s = time.process_time() - cpu_s
        channel.close()
        return _round_trips("TLS 1.3", size, taken_s[-times:], cpu_s)

    with echoing("tls", str(key)) as port, through(port) as way:
        return uvloop.run(run(way))


def _curve(size: int, times: int) -> RoundTrips:
    import zmq  # noqa: PLC0415 - only to compare with

    public, secret = zmq.curve_keypair()
    with echoing("curve", secret.decode(), public.decode()) as port:
        socket = zmq.Context().socket(zmq.REQ)
        socket.curve_serverkey = public
        socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
        socket.connect(f"tcp://127.0.0.1:{port}")
        tensors = bytes(size)

        def once() -> None:
            socket.send_multipart([b"message", tensors], copy=False)
            socket.recv_multipart()

        taken_s, cpu_s = _timed(once, times)
        socket.close(0)
    return _round_trips("pyzmq with CURVE", size, taken_s, cpu_s)


def _timed(once: Callable[[], object], times: int) -> tuple[list[float], float]:
    for _ in range(times // 10):
        once()
    taken_s, cpu_s = [], time.process_time()
    for _ in range(times):
        start_s = time.perf_counter()
        once()
        taken_s.append(time.perf_counter() - start_s)
    return taken_s, time.process_time() - cpu_s


def _round_trips(channel: str, size: int, taken_s: list[float], cpu_s: float) -> RoundTrips:
    p50_s, p99_s = (float(value) for value in np.percentile(taken_s, (50, 99)))
    return RoundTrips(channel, size, p50_s, p99_s, cpu_s / len(taken_s))
