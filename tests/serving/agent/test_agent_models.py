"""What an agent keeps of models: whole, with the digest that they were announced by, and nowhere else."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from agents import PATIENCE_S, linked, remote_device, run, running_agent, until
from tiny import keep_apart, mlp

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import ArtefactError, EngineError
from proteus_cli.serving.agent import models
from proteus_cli.serving.agent.models import ModelStore
from proteus_cli.serving.devices.remote import uploads
from proteus_cli.serving.devices.remote.link import AgentLink
from proteus_cli.serving.devices.remote.messages import ModelPiece, ModelState, OfferModel
from proteus_cli.serving.devices.remote.uploads import KnownModels
from proteus_cli.serving.lifecycle import running
from proteus_cli.store import model_digest

DIGEST = "ab" * 32
KEY = VariantKey("f", "v")


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def size_of(path: Path) -> int:
    return path.stat().st_size


def pieces(model: Path, size: int = 100) -> Iterator[tuple[int, bytes]]:
    content = model.read_bytes()
    for offset in range(0, len(content), size):
        yield offset, content[offset : offset + size]


async def sent(store: ModelStore, model: Path, digest: str, *, stop_after: int | None = None) -> ModelState:
    state = await store.offered(OfferModel(digest, [(model.name, size_of(model))]))
    for number, (offset, content) in enumerate(pieces(model)):
        if state.is_whole or state.error is not None or number == stop_after:
            break
        if offset >= state.sizes[0]:
            state = await store.take(ModelPiece(digest, 0, offset), memoryview(content))
    return state


def test_a_model_is_there_once_it_is_whole_and_is_sent_once(tmp_path: Path) -> None:
    async def test() -> None:
        model, store = mlp(tmp_path / "m.onnx"), ModelStore(tmp_path / "models")
        digest = model_digest(model)
        state = await sent(store, model, digest, stop_after=3)
        assert (state.is_whole, state.sizes) == (False, [300])
        with pytest.raises(EngineError, match="has no model"):
            store.path_of(digest)
        again = ModelStore(tmp_path / "models")  # as after a restart
        assert (await again.offered(OfferModel(digest, [("m.onnx", size_of(model))]))).sizes == [300]
        assert (await sent(again, model, digest)).is_whole
        assert again.path_of(digest).read_bytes() == model.read_bytes()
        assert (await store.offered(OfferModel(digest, [("m.onnx", 1)]))).is_whole
        assert files(tmp_path / "models") == [f"{digest}/model.onnx"]

    asyncio.run(test())


def test_another_model_than_the_one_announced_is_refused_and_removed(tmp_path: Path) -> None:
    async def test() -> None:
        store = ModelStore(tmp_path / "models")
        state = await sent(store, mlp(tmp_path / "m.onnx"), DIGEST)
        assert state.error is not None
        assert "not the model that was announced" in state.error.message
        assert files(tmp_path / "models") == []

    asyncio.run(test())


@pytest.mark.parametrize(
    "names",
    [
        ["m", "../other"], ["m", "/etc/passwd"], ["m", "a/../../b"], ["m", "a//b/."], ["m", ""], ["m", "x" * 300],
        ["m", "model.onnx"], ["m", "w", "w"], ["m", "a\0b"], [], ["m"] * 1001,
    ],
)  # fmt: skip
def test_no_name_leads_out_of_the_directory_of_a_model(tmp_path: Path, names: Sequence[str]) -> None:
    async def test() -> None:
        store = ModelStore(tmp_path / "models")
        state = await store.offered(OfferModel(DIGEST, [(name, 5) for name in names]))
        assert state.error is not None
        taken = await store.take(ModelPiece(DIGEST, min(1, len(names)), 0), memoryview(b"12345"))
        assert taken.error is not None
        assert files(tmp_path) == []

    asyncio.run(test())


def test_neither_digests_nor_pieces_lead_elsewhere(tmp_path: Path) -> None:
    async def test() -> None:
        store = ModelStore(tmp_path / "models")
        for digest in ("../" * 20 + "abcd", "", "AB" * 32, "ab" * 31, "g" * 64):
            assert (await store.offered(OfferModel(digest, [("m", 5)]))).error is not None
            with pytest.raises(EngineError):
                store.path_of(digest)
        await store.offered(OfferModel(DIGEST, [("m", 5)]))
        for piece, content in (
            (ModelPiece(DIGEST, 0, 1), b"1"), (ModelPiece(DIGEST, 1, 0), b"1"), (ModelPiece(DIGEST, -1, 0), b"1"),
            (ModelPiece(DIGEST, 0, 0), b"123456"), (ModelPiece(DIGEST, 0, 0), b""), (ModelPiece("cd" * 32, 0, 0), b"1"),
            (ModelPiece(DIGEST, 0, -1), b"1"),
        ):  # fmt: skip
            assert (await store.take(piece, memoryview(content))).error is not None
        assert files(tmp_path) == []

    asyncio.run(test())


def test_a_full_disk_is_an_error_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def append(_path: Path, _content: memoryview) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(models, "_append", append)

    async def test() -> None:
        state = await sent(ModelStore(tmp_path / "models"), mlp(tmp_path / "m.onnx"), DIGEST)
        assert state.error is not None
        assert "No space left" in state.error.message

    asyncio.run(test())


def test_weights_in_files_of_their_own_are_sent_too(tmp_path: Path) -> None:
    async def test() -> None:
        model = mlp(tmp_path / "here" / "m.onnx")
        keep_apart(model, "weights/w.bin")
        async with running_agent(tmp_path) as agent, linked(agent.address) as link:
            executor = remote_device(link)
            await executor.load(KEY, model, 4)
            digest = model_digest(model)
            assert files(agent.state / "models") == [f"{digest}/model.onnx", f"{digest}/weights/w.bin"]
            executor.abandon()

    (tmp_path / "here" / "weights").mkdir(parents=True)
    run(test)


def test_a_model_that_changes_while_it_is_sent_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its load fails, and the next one is of the file as it is then."""
    read, model = uploads._read, mlp(tmp_path / "m.onnx", hidden=64)
    monkeypatch.setattr(uploads, "PIECE_BYTES", 500)

    def read_and_change(part: Path, offset: int) -> bytes:
        piece = read(part, offset)
        if offset == 500:
            mlp(model, hidden=64, seed=1)
        return piece

    monkeypatch.setattr(uploads, "_read", read_and_change)

    async def test() -> None:
        async with running_agent(tmp_path) as agent, linked(agent.address) as link:
            executor = remote_device(link)
            with pytest.raises(EngineError, match="changed while it was sent"):
                await executor.load(KEY, model, 4)
            monkeypatch.setattr(uploads, "_read", read)
            signature = await executor.load(KEY, model, 4)
            assert signature.inputs[0].dtype == np.float32
            assert files(agent.state / "models") == [f"{model_digest(model)}/model.onnx"]
            executor.abandon()

    run(test)


def test_a_broken_upload_goes_on_where_it_was_with_the_next_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, offsets = uploads._read, list[int]()
    monkeypatch.setattr(uploads, "PIECE_BYTES", 500)

    async def test() -> None:
        async with running_agent(tmp_path) as agent, linked(agent.address) as link:

            def read_and_break(part: Path, offset: int) -> bytes:
                offsets.append(offset)
                if offset == 1000:
                    loop.call_soon_threadsafe(break_off)
                return read(part, offset)

            def read_and_note(part: Path, offset: int) -> bytes:
                offsets.append(offset)
                return read(part, offset)

            def break_off() -> None:
                assert agent.agent.session is not None
                agent.agent.session.end("the test ends it")

            loop = asyncio.get_running_loop()
            monkeypatch.setattr(uploads, "_read", read_and_break)
            first, model = link.session, mlp(tmp_path / "m.onnx", hidden=64)
            with pytest.raises(EngineError):
                await remote_device(link).load(KEY, model, 4)
            while link.session is None or link.session is first:
                await asyncio.sleep(0.01)
            executor = remote_device(link)
            monkeypatch.setattr(uploads, "_read", read_and_note)
            await executor.load(KEY, model, 4)
            assert offsets == [*range(0, 1001, 500), *range(offsets[3], size_of(model), 500)]
            assert offsets[3] in {1000, 1500}
            executor.abandon()

    run(test)


def test_models_are_sent_ahead_and_one_that_cannot_be_read_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A load that follows sends nothing, and reads no file again."""
    first, gone, last = mlp(tmp_path / "a.onnx"), tmp_path / "gone.onnx", mlp(tmp_path / "b.onnx", seed=1)

    async def test() -> None:
        async with running_agent(tmp_path) as agent:
            link = AgentLink(agent.address, [first, gone, last])
            async with running(link.run()):
                await link.tried()
                assert link.session is not None
                there = link.session._uploads._there
                await until(lambda: len(there) == 2)
                assert there == {model_digest(first), model_digest(last)}
                known = await link.session._uploads._known.of(last)
                executor = remote_device(link)
                await executor.load(KEY, last, 4)
                assert await link.session._uploads._known.of(last) is known
                executor.abandon()

    run(test)
    assert "`" + str(gone) + "` can't be sent ahead" in caplog.text


def test_a_model_is_hashed_once_for_all_connections_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the connection that wanted it first has ended meanwhile."""
    read, begun, may_go_on = list[Path](), threading.Event(), threading.Event()

    def slow_digest(model: Path) -> str:
        read.append(model)
        begun.set()
        assert may_go_on.wait(PATIENCE_S)
        return model_digest(model)

    monkeypatch.setattr(uploads, "model_digest", slow_digest)
    model = mlp(tmp_path / "m.onnx")

    async def test() -> None:
        known = KnownModels()
        first = asyncio.create_task(known.of(model))
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        first.cancel()
        second = asyncio.create_task(known.of(model))
        await asyncio.sleep(0)
        may_go_on.set()
        found = await second
        assert first.cancelled()
        assert await known.of(model) is found
        assert read == [model]
        mlp(model, seed=1)
        assert (await known.of(model)).digest == model_digest(model) != found.digest
        assert read == [model, model]
        model.unlink()
        with pytest.raises(ArtefactError):
            await known.of(model)

    asyncio.run(test())
