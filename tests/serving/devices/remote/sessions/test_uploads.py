"""What a server sends of a model, and when: the test answers as an agent would."""

import asyncio
import gc
import math
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from agents import PATIENCE_S, run, until
from tiny import mlp

from proteus_cli.buffers import Buffer
from proteus_cli.errors import EngineError
from proteus_cli.serving.devices.process.messages import SentError
from proteus_cli.serving.devices.remote.channel.messages import PIECES_ON_THE_WAY, ModelPiece, ModelState, OfferModel
from proteus_cli.serving.devices.remote.sessions import uploads
from proteus_cli.serving.devices.remote.sessions.uploads import KnownModels, Uploads
from proteus_cli.store import model_digest

PIECE_BYTES = 100


class Sending:
    """The model `m.onnx`, which is being sent to an agent that has nothing of it; ``pieces`` are those that came."""

    def __init__(self, directory: Path) -> None:
        model = mlp(directory / "m.onnx")
        self.digest, self.size = model_digest(model), model.stat().st_size
        self.uploads = Uploads(self._send, KnownModels())
        self.offers, self.pieces = list[OfferModel](), list[ModelPiece]()
        self.content = b""
        self.sent = self.uploads.send(model)

    def _send(self, message: msgspec.Struct, behind: Sequence[Buffer]) -> None:
        if isinstance(message, OfferModel):
            self.offers.append(message)
        else:
            assert isinstance(message, ModelPiece)
            assert message.offset == len(self.content)
            self.pieces.append(message)
            self.content += b"".join(behind)

    def answer(self, size: int) -> None:
        """Say how many bytes are there."""
        self.uploads.state(ModelState(self.digest, [size], is_whole=size == self.size))


def played(directory: Path, test: Callable[[Sending], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    async def sending() -> None:
        started = Sending(directory)
        await until(lambda: started.offers)
        await test(started)
        started.uploads.close()

    monkeypatch.setattr(uploads, "PIECE_BYTES", PIECE_BYTES)
    run(sending)


def test_some_pieces_are_on_their_way_at_once_and_one_more_for_each_that_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(sending: Sending) -> None:
        pieces = math.ceil(sending.size / PIECE_BYTES)
        for there in range(pieces):
            sending.answer(there * PIECE_BYTES)
            expected = min(there + PIECES_ON_THE_WAY, pieces)
            await until(lambda: len(sending.pieces) >= expected)  # noqa: B023 - it is called here
            assert len(sending.pieces) == expected
        sending.answer(sending.size)
        assert await sending.sent == sending.digest
        assert sending.content == (tmp_path / "m.onnx").read_bytes()

    played(tmp_path, test, monkeypatch)


def test_an_upload_fails_where_the_agent_says_nothing_of_it_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(sending: Sending) -> None:
        sending.answer(0)
        await until(lambda: sending.pieces)
        monkeypatch.setattr(uploads, "MAX_SILENT_S", 0.0)  # it is read for each answer
        sending.answer(PIECE_BYTES)
        with pytest.raises(EngineError, match="has said nothing of a model"):
            await sending.sent

    played(tmp_path, test, monkeypatch)


def test_an_upload_that_a_bug_ends_fails_and_the_bug_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_part: Path, _offset: int) -> NoReturn:
        raise RuntimeError("a bug")

    monkeypatch.setattr(uploads, "_read", fails)

    async def test(sending: Sending) -> None:
        sending.answer(0)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(RuntimeError, match="a bug"):
                await sending.sent
        await until(lambda: not sending.uploads._tasks)

    played(tmp_path, test, monkeypatch)
    gc.collect()
    assert "RuntimeError: a bug" in caplog.text


def test_answers_to_an_upload_that_has_failed_are_no_answers_to_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(sending: Sending) -> None:
        refusal = ModelState(sending.digest, [], is_whole=False, error=SentError("EngineError", "no room"))
        sending.answer(0)
        await until(lambda: len(sending.pieces) == PIECES_ON_THE_WAY)
        sending.uploads.state(refusal)
        with pytest.raises(EngineError, match="no room"):
            await sending.sent
        again = sending.uploads.send(tmp_path / "m.onnx")
        await until(lambda: len(sending.offers) == 2)
        for _ in range(PIECES_ON_THE_WAY - 1):
            sending.uploads.state(refusal)
        sending.answer(sending.size)
        assert await again == sending.digest

    played(tmp_path, test, monkeypatch)


def test_models_are_sent_ahead_one_after_another_but_for_those_that_are_forgotten_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(sending: Sending) -> None:
        second, third = mlp(tmp_path / "second.onnx", seed=1), mlp(tmp_path / "third.onnx", seed=2)
        sending.uploads.send_ahead([tmp_path / "m.onnx"])
        sending.uploads.send_ahead([second, third])
        sending.uploads.forget([second])
        sending.answer(sending.size)
        await until(lambda: len(sending.offers) > 1)
        assert sending.offers[1].digest == model_digest(third)

    played(tmp_path, test, monkeypatch)
