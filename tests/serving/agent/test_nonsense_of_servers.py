"""What a server may not say: it ends its session, with a line in the agent's log that says why, and nothing is left."""

import asyncio
import struct
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from agents import CPU, run, running_agent, until

from proteus_cli.buffers import Buffer
from proteus_cli.serving.devices.remote.channel.frames import MAX_TENSOR_BYTES
from proteus_cli.serving.devices.remote.channel.messages import (
    MAX_ECHO_BYTES,
    PIECES_ON_THE_WAY,
    MeasureDevices,
    MeasureOptions,
    ModelPiece,
    OfferModel,
    OpenDevice,
    Ping,
    WithdrawModel,
)
from proteus_cli.serving.devices.remote.sessions.connecting import connect

CPU1 = msgspec.structs.replace(CPU, id="cpu1")
DIGEST = "ab" * 32
OPTIONS = MeasureOptions("cpu0", 1.0, 1, 1, accepts_noise=True, as_type=None, force=False)
Said = tuple[msgspec.Struct, Sequence[Buffer]]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([(OpenDevice(0, "cpu0", 1), ()), (OpenDevice(0, "cpu1", 1), ())], "it uses the number 0 twice"),
        ([(MeasureDevices(0, (), OPTIONS), ())] * 2, "it uses the number 0 twice"),
        ([(OpenDevice(0, "cpu0", 1), [b"no profile"])], "a profile can't be read: "),
        ([(OpenDevice(0, "cpu0", 1), [b"\xa1\xff"])], "a profile can't be read: "),
        ([(Ping(0.0), [bytes(MAX_ECHO_BYTES + 1)])], "4,194,305 bytes are more than may be behind their message"),
    ],
)
def test_nonsense_ends_its_session_and_leaves_no_device_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, said: Sequence[Said], why: str
) -> None:
    caplog.set_level("INFO", "proteus.agent")

    async def test() -> None:
        async with running_agent(tmp_path, (CPU, CPU1)) as agent:
            tasks_at_rest = len(asyncio.all_tasks())
            session = await connect(agent.address, "s", 1)
            for message, behind in said:
                session.send(message, behind)
            await until(session.has_ended.is_set)
            await until(lambda: len(asyncio.all_tasks()) == tasks_at_rest)
            assert not agent.agent.sessions
            assert not agent.agent._shared.open_devices

    run(test)
    assert f"is gone: {why}" in caplog.text
    assert "Traceback" not in caplog.text


def test_pieces_of_a_model_that_come_without_waiting_for_answers_end_the_session(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "proteus.agent")

    async def test() -> None:
        async with running_agent(tmp_path) as agent:
            session = await connect(agent.address, "s", 1)
            session.send(OfferModel(DIGEST, [("m.onnx", 100)]))
            there = agent.session
            await until(lambda: DIGEST in there._offered._offers and not there._writing)
            for pieces, is_kept in ((PIECES_ON_THE_WAY, True), (PIECES_ON_THE_WAY + 1, False)):
                async with agent.agent._models.lock(DIGEST):
                    for _ in range(pieces):
                        session.send(ModelPiece(DIGEST, 0, 0), [b"x"])
                    await until(lambda: len(there._writing) == PIECES_ON_THE_WAY)
                    if not is_kept:
                        await until(session.has_ended.is_set)
                await until(lambda: not there._writing)
                assert not there._pieces
                assert session.is_open is is_kept

    run(test)
    assert f"is gone: it sends more than {PIECES_ON_THE_WAY} pieces of a model at once" in caplog.text


@pytest.mark.parametrize(
    "message", [Ping(0.0), WithdrawModel(DIGEST), OpenDevice(0, "cpu0", 1), ModelPiece(DIGEST, 0, 0)], ids=repr
)
def test_bytes_that_do_not_belong_behind_a_message_end_the_session_before_they_are_received(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, message: msgspec.Struct
) -> None:
    caplog.set_level("INFO", "proteus.agent")

    async def test() -> None:
        async with running_agent(tmp_path) as agent:
            session = await connect(agent.address, "s", 1)
            transport, content = session.channel._transport, msgspec.msgpack.encode(message)
            assert transport is not None
            transport.write(struct.pack("!II", len(content), MAX_TENSOR_BYTES) + content + bytes(1000))
            await until(lambda: not agent.agent.sessions)

    run(test)
    assert "is gone: 1,073,741,824 bytes are more than may be behind their message" in caplog.text


def test_echoes_that_are_not_read_end_the_session(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "proteus.agent")

    async def test() -> None:
        async with running_agent(tmp_path) as agent:
            session = await connect(agent.address, "s", 1)
            transport = session.channel._transport
            assert transport is not None
            transport.pause_reading()
            for _ in range(10):
                session.send(Ping(0.0), [bytes(MAX_ECHO_BYTES)])
            await until(lambda: not agent.agent.sessions)

    run(test)
    assert "is gone: it asks for more than 4,194,304 bytes of echoes at once" in caplog.text
