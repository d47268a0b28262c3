"""The connection between a server and a device of another machine, which the agent there hands to the device's process.

A server connects to the agent's port once more, and says `MAGIC` and the token of the device before anything else. The
agent reads no further: TLS begins in the process, which so has the only copy of the session's keys.
"""

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from proteus_cli.backends.base import OutputArrays
from proteus_cli.errors import EngineError
from proteus_cli.serving.devices.executor import Executor
from proteus_cli.serving.devices.process import messages
from proteus_cli.serving.devices.process.device_server import DeviceServer, OutputEvent, Turns
from proteus_cli.serving.devices.process.layout import BatchLayout
from proteus_cli.serving.devices.remote.channel.channel import FrameChannel
from proteus_cli.serving.devices.remote.channel.frames import FrameParser

MAGIC = b"proteus device: "
"""No connection to an agent itself begins like this: TLS begins with 0x16, a frame with zeros."""

TOKEN_BYTES = 16
HANDSHAKE_S = 10.0

MODEL = "model.onnx"
DIGEST = re.compile(r"[0-9a-f]{64}")


def model_of(root: Path, digest: str) -> Path:
    """Where a whole model is, which counts as used. Raises `EngineError` where there is none of this digest."""
    path = root / digest / MODEL
    if not DIGEST.fullmatch(digest) or not path.is_file():
        raise EngineError(f"The agent has no model `{digest[:64]}`.", hint="the server sends it before it is loaded")
    os.utime(path.parent)
    return path


async def served_over(served: "ServedConnection", connection: socket.socket, tls: ssl.SSLContext | None) -> None:
    """Serve a server over a connection until that ends. Raises `OSError` where there is no handshake."""
    connection.setblocking(False)
    limit_s = None if tls is None else HANDSHAKE_S
    await asyncio.get_running_loop().connect_accepted_socket(
        lambda: served.channel, connection, ssl=tls, ssl_handshake_timeout=limit_s
    )
    try:
        await served.has_ended.wait()
    finally:
        served.channel.close()


class ServedConnection:
    """Owns the channel to a server, and is the `ServerLink` of its device, which is open."""

    sends_at_once = False

    def __init__(
        self, executor: Executor, opened: messages.OpenedEvent, find_model: Callable[[str], Path], turns: Turns
    ) -> None:
        self.has_ended = asyncio.Event()
        self.channel: FrameChannel[messages.ServerCommand] = FrameChannel(
            messages.SERVER_COMMANDS, FrameParser(), lambda channel: channel.send(opened)
        )
        self.channel.owner = self
        self.send = self.channel.send
        self._server = DeviceServer(executor, self, self.has_ended.set, find_model, turns)

    def send_outputs(self, event: OutputEvent, layout: BatchLayout, given: OutputArrays, _buffer: int) -> None:
        self.channel.send(event, layout.output_pieces(given))

    def received(self, message: messages.ServerCommand, behind: memoryview) -> None:
        self._server.obey(message, behind)

    def ended(self, _reason: str) -> None:
        self.has_ended.set()
