"""What an agent may not say: it ends the session, with a line in the log that says why, and nothing else."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from agents import CPU, PATIENCE_S, run, until
from msgspec.structs import replace
from tiny import mlp

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import HostLost
from proteus_cli.serving.devices.process.messages import (
    ENCODER,
    EVENTS,
    SERVER_EVENTS,
    LeftEvent,
    OpenedEvent,
    RanEvent,
)
from proteus_cli.serving.devices.remote.channel.address import AgentAddress
from proteus_cli.serving.devices.remote.channel.channel import FrameChannel
from proteus_cli.serving.devices.remote.channel.frames import MAX_MESSAGE_BYTES, MAX_TENSOR_BYTES, FrameParser
from proteus_cli.serving.devices.remote.channel.messages import (
    FIRST_TO_AGENT,
    MAX_FIRST_BYTES,
    TO_AGENT,
    DevicesShared,
    Hello,
    Inventory,
    ModelPiece,
    ModelState,
    OfferModel,
    Ping,
    ToAgent,
    Welcome,
)
from proteus_cli.serving.devices.remote.sessions.connecting import connect
from proteus_cli.serving.devices.remote.sessions.session import AgentSession
from proteus_cli.serving.transport.listening import accepting, listen
from proteus_cli.store import model_digest

Answer = Callable[[ToAgent], Sequence[msgspec.Struct]]
DIGEST = "ab" * 32


class AgentDouble:
    """Welcomes a server, and says whatever a test says."""

    def __init__(self, answer: Answer, channel: FrameChannel[Any]) -> None:
        self._answer, self._channel = answer, channel
        channel.owner = self

    def received(self, message: ToAgent, _behind: memoryview) -> None:
        if isinstance(message, Hello):
            self._channel.decode_with(TO_AGENT, MAX_MESSAGE_BYTES, MAX_TENSOR_BYTES)
            self._channel.send(Welcome(Inventory((CPU,), {}, 0)))
        for each in self._answer(message):
            self._channel.send(each)

    def ended(self, _reason: str) -> None:
        self._channel.close()


@asynccontextmanager
async def session_with(answer: Answer) -> AsyncIterator[AgentSession]:
    listener = listen("127.0.0.1", 0)
    address = AgentAddress("a", "127.0.0.1", listener.getsockname()[1], None)

    def accept() -> FrameChannel[Any]:
        return FrameChannel(
            FIRST_TO_AGENT, FrameParser(MAX_FIRST_BYTES, 0), lambda channel: AgentDouble(answer, channel)
        )

    async with accepting(listener, accept, None):
        session = await connect(address, "s", 1)
        try:
            yield session
        finally:
            session.close()


@pytest.mark.parametrize("servers", [-1, 0, 1, 17])
def test_as_many_servers_as_share_no_device_end_the_session(caplog: pytest.LogCaptureFixture, servers: int) -> None:
    """No capacity is divided by them."""
    ends_with(caplog, DevicesShared({"cpu0": servers}), "Expected `int`")


def test_sizes_below_zero_end_the_session(caplog: pytest.LogCaptureFixture) -> None:
    ends_with(caplog, ModelState(DIGEST, [-1], is_whole=False), "Expected `int` >= 0")


@pytest.mark.parametrize("wrong", [-1e-9, math.nan, math.inf])
def test_times_and_places_that_are_none_of_a_batch_cannot_be_read(wrong: float) -> None:
    ran, left = RanEvent(0, 0.1, 0.1, 0.1, 0.1, [(1, 3)], {}), LeftEvent(0, [0], 0.1, 0.1, [(1, 3)])
    said: list[msgspec.Struct] = [
        replace(ran, **{name: wrong}) for name in ("compute_s", "elapsed_s", "ended_s", "waited_s")
    ]
    said += [replace(left, **{name: wrong}) for name in ("compute_s", "ended_s")] + [replace(left, parts=[-1])]
    for decoder in (SERVER_EVENTS, EVENTS):
        for event in said:
            with pytest.raises(msgspec.ValidationError):
                decoder.decode(ENCODER.encode(event))


@pytest.mark.parametrize(
    ("to_offer", "to_piece"),
    [([], []), ([0, 0], []), ([0], []), ([0], [0]), ([100], [100])],
)
def test_answers_that_do_not_fit_the_model_that_is_sent_end_the_session(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, to_offer: list[int], to_piece: list[int]
) -> None:
    """As many sizes as it has files; and of what was sent, the agent has more than before."""
    model = mlp(tmp_path / "m.onnx")
    digest = model_digest(model)

    def answer(message: ToAgent) -> Sequence[msgspec.Struct]:
        if isinstance(message, OfferModel | ModelPiece):
            sizes = to_offer if isinstance(message, OfferModel) else to_piece
            return [ModelState(digest, sizes, is_whole=False)]
        return []

    async def test() -> None:
        async with session_with(answer) as session:
            executor = session.open_device("cpu0", 1, lambda _: None)
            executor.received(OpenedEvent("a backend", can_give_way=False), memoryview(b""))
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(HostLost, match="what it says of a model does not fit"):
                    await executor.load(VariantKey("f", "v"), model, 4)

    run(test)
    check_said(caplog, "what it says of a model does not fit what it was sent")


def ends_with(caplog: pytest.LogCaptureFixture, said: msgspec.Struct, why: str) -> None:
    async def test() -> None:
        async with session_with(lambda message: [said] if isinstance(message, Ping) else []) as session:
            session.send(Ping(0.0))
            await until(session.has_ended.is_set)
            assert session.shared == {}

    run(test)
    check_said(caplog, f"a message can't be read: {why}")


def check_said(caplog: pytest.LogCaptureFixture, why: str) -> None:
    """One line, without a traceback."""
    (record,) = caplog.records
    assert record.exc_info is None
    assert record.getMessage().startswith("host a (127.0.0.1:")
    assert f" is lost: {why}" in record.getMessage()
