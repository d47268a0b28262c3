"""Something in a process of its own that takes tensors and answers shortly, over one of the channels to compare.

`python -m benchmarks.cluster.echo tls KEY` or `… curve SECRET PUBLIC`; it prints its port.
"""

import asyncio
import sys
from pathlib import Path

import msgspec
import uvloop

from proteus_cli.serving.devices.remote.channel.channel import FrameChannel
from proteus_cli.serving.devices.remote.channel.frames import FrameParser
from proteus_cli.serving.devices.remote.channel.messages import Ping
from proteus_cli.serving.devices.remote.channel.tls import cluster_tls
from proteus_cli.serving.transport.listening import accepting, listen

ANSWER = b"\0" * 40  # the scores of ten classes


class Answering:
    """Answers each frame with a short one."""

    def __init__(self, channel: "FrameChannel[Ping]") -> None:
        self._channel = channel

    def received(self, message: Ping, _behind: memoryview) -> None:
        self._channel.send(message, [ANSWER])

    def ended(self, _reason: str) -> None: ...


def _channel() -> "FrameChannel[Ping]":
    channel: FrameChannel[Ping] = FrameChannel(msgspec.msgpack.Decoder(Ping), FrameParser())
    channel.owner = Answering(channel)
    return channel


async def _tls(key: Path) -> None:
    listener = listen("127.0.0.1", 0)
    async with accepting(listener, _channel, cluster_tls(key, listens=True)):
        print(listener.getsockname()[1], flush=True)
        await asyncio.Event().wait()


def _curve(secret: str, public: str) -> None:
    import zmq  # noqa: PLC0415 - only to compare with

    socket = zmq.Context().socket(zmq.REP)
    socket.curve_server, socket.curve_secretkey, socket.curve_publickey = True, secret.encode(), public.encode()
    print(socket.bind_to_random_port("tcp://127.0.0.1"), flush=True)
    while True:
        message, *_ = socket.recv_multipart(copy=False)
        socket.send_multipart([message, ANSWER])


if __name__ == "__main__":
    if sys.argv[1] == "tls":
        uvloop.run(_tls(Path(sys.argv[2])))
    else:
        _curve(*sys.argv[2:])
