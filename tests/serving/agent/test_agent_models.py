"""What an agent keeps of models: whole, with the digest that they were announced by, and nowhere else."""

import asyncio
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from agents import PATIENCE_S, linked, remote_device, run, running_agent, until
from tiny import keep_apart, mlp

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import ArtefactError, EngineError
from proteus_cli.serving.agent import models
from proteus_cli.serving.agent.models import ModelStore, OfferedModels, half_of_disk
from proteus_cli.serving.devices.remote.channel.messages import PIECES_ON_THE_WAY, ModelPiece, ModelState, OfferModel
from proteus_cli.serving.devices.remote.links.link import AgentLink
from proteus_cli.serving.devices.remote.sessions import uploads
from proteus_cli.serving.devices.remote.sessions.uploads import KnownModels
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


async def sent(store: OfferedModels, model: Path, digest: str, *, stop_after: int | None = None) -> ModelState:
    state = await store.offered(OfferModel(digest, [(model.name, size_of(model))]))
    for number, (offset, content) in enumerate(pieces(model)):
        if state.is_whole or state.error is not None or number == stop_after:
            break
        if offset >= state.sizes[0]:
            state = await store.take(ModelPiece(digest, 0, offset), memoryview(content))
    return state


def offers_to(directory: Path) -> OfferedModels:
    return OfferedModels(ModelStore(directory / "models"))


def test_a_model_is_there_once_it_is_whole_and_is_sent_once(tmp_path: Path) -> None:
    async def test() -> None:
        model, store = mlp(tmp_path / "m.onnx"), ModelStore(tmp_path / "models")
        offered, digest = OfferedModels(store), model_digest(model)
        state = await sent(offered, model, digest, stop_after=3)
        assert (state.is_whole, state.sizes) == (False, [300])
        with pytest.raises(EngineError, match="has no model"):
            store.path_of(digest)
        again = OfferedModels(ModelStore(tmp_path / "models"))  # as after a restart
        assert (await again.offered(OfferModel(digest, [("m.onnx", size_of(model))]))).sizes == [300]
        assert (await sent(again, model, digest)).is_whole
        assert store.path_of(digest).read_bytes() == model.read_bytes()
        assert (await offered.offered(OfferModel(digest, [("m.onnx", 1)]))).is_whole
        assert files(tmp_path / "models") == [f"{digest}/model.onnx"]

    asyncio.run(test())


def test_another_model_than_the_one_announced_is_refused_and_removed(tmp_path: Path) -> None:
    async def test() -> None:
        state = await sent(offers_to(tmp_path), mlp(tmp_path / "m.onnx"), DIGEST)
        assert state.error is not None
        assert "not the model that was announced" in state.error.message
        assert files(tmp_path / "models") == []

    asyncio.run(test())


@pytest.mark.parametrize(
    "names",
    [
        ["m", "../other"], ["m", "/etc/passwd"], ["m", "a/../../b"], ["m", "a//b/."], ["m", ""], ["m", "x" * 300],
        ["m", "model.onnx"], ["m", "w", "w"], ["m", "a\0b"], [], ["m"] * 1001,
        ["m", "a", "a/b"], ["m", "a/b/c", "a"], ["m", "model.onnx/w"],
    ],
)  # fmt: skip
def test_no_name_leads_out_of_the_directory_of_a_model(tmp_path: Path, names: Sequence[str]) -> None:
    async def test() -> None:
        store = offers_to(tmp_path)
        state = await store.offered(OfferModel(DIGEST, [(name, 5) for name in names]))
        assert state.error is not None
        taken = await store.take(ModelPiece(DIGEST, min(1, len(names)), 0), memoryview(b"12345"))
        assert taken.error is not None
        assert files(tmp_path) == []

    asyncio.run(test())


def test_neither_digests_nor_pieces_lead_elsewhere(tmp_path: Path) -> None:
    async def test() -> None:
        store, offered = ModelStore(tmp_path / "models"), offers_to(tmp_path)
        for digest in ("../" * 20 + "abcd", "", "AB" * 32, "ab" * 31, "g" * 64):
            assert (await offered.offered(OfferModel(digest, [("m", 5)]))).error is not None
            with pytest.raises(EngineError):
                store.path_of(digest)
        await offered.offered(OfferModel(DIGEST, [("m", 5)]))
        for piece, content in (
            (ModelPiece(DIGEST, 0, 1), b"1"), (ModelPiece(DIGEST, 1, 0), b"1"), (ModelPiece(DIGEST, -1, 0), b"1"),
            (ModelPiece(DIGEST, 0, 0), b"123456"), (ModelPiece(DIGEST, 0, 0), b""), (ModelPiece("cd" * 32, 0, 0), b"1"),
            (ModelPiece(DIGEST, 0, -1), b"1"),
        ):  # fmt: skip
            assert (await offered.take(piece, memoryview(content))).error is not None
        assert files(tmp_path) == []

    asyncio.run(test())


def test_a_full_disk_is_an_error_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def append(_path: Path, _content: memoryview) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(models, "_append", append)

    async def test() -> None:
        state = await sent(offers_to(tmp_path), mlp(tmp_path / "m.onnx"), DIGEST)
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
    breaks_at = 500 * PIECES_ON_THE_WAY  # once the agent has said that it has the first piece

    async def test() -> None:
        async with running_agent(tmp_path) as agent, linked(agent.address) as link:

            def read_and_break(part: Path, offset: int) -> bytes:
                if offset == breaks_at:
                    loop.call_soon_threadsafe(break_off)
                return read(part, offset)

            def read_and_note(part: Path, offset: int) -> bytes:
                offsets.append(offset)
                return read(part, offset)

            def break_off() -> None:
                agent.session.end("the test ends it")

            loop = asyncio.get_running_loop()
            monkeypatch.setattr(uploads, "_read", read_and_break)
            first, model = link.session, mlp(tmp_path / "m.onnx", hidden=256)
            with pytest.raises(EngineError):
                await remote_device(link).load(KEY, model, 4)
            while link.session is None or link.session is first:
                await asyncio.sleep(0.01)
            executor = remote_device(link)
            monkeypatch.setattr(uploads, "_read", read_and_note)
            await executor.load(KEY, model, 4)
            assert offsets == list(range(offsets[0], size_of(model), 500))
            assert 500 <= offsets[0] <= breaks_at + 500
            executor.abandon()

    run(test)


def test_models_are_sent_ahead_and_one_that_cannot_be_read_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A load that follows sends nothing, and reads no file again."""
    first, gone, last = mlp(tmp_path / "a.onnx"), tmp_path / "gone.onnx", mlp(tmp_path / "b.onnx", seed=1)

    async def test() -> None:
        async with running_agent(tmp_path) as agent:
            link = AgentLink(agent.address, lambda: [first, gone, last])
            async with running(link.run):
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


def test_servers_that_send_the_same_model_help_each_other(tmp_path: Path) -> None:
    async def test() -> None:
        model, store = mlp(tmp_path / "m.onnx", hidden=64), ModelStore(tmp_path / "models")
        digest = model_digest(model)
        ends = await asyncio.gather(*(sent(OfferedModels(store), model, digest) for _ in range(3)))
        assert all(state.is_whole for state in ends)
        assert files(tmp_path / "models") == [f"{digest}/model.onnx"]

    asyncio.run(test())


def test_the_models_that_were_used_last_stay_where_there_is_no_room_for_all(tmp_path: Path) -> None:
    async def test() -> None:
        models = [mlp(tmp_path / f"{seed}.onnx", seed=seed) for seed in range(4)]
        digests, size = [model_digest(model) for model in models], size_of(models[0])
        store = ModelStore(tmp_path / "models", 2.5 * size)

        async def keep(number: int, *, stop_after: int | None = None) -> OfferedModels:
            offered = OfferedModels(store)
            await sent(offered, models[number], digests[number], stop_after=stop_after)
            return offered

        def kept() -> set[int]:
            return {number for number, digest in enumerate(digests) if store.is_whole(digest)}

        for number in (0, 1):
            (await keep(number)).close()
            os.utime(tmp_path / "models" / digests[number], (number, number))
        assert kept() == {0, 1}
        store.path_of(digests[0])
        (await keep(2)).close()
        assert kept() == {0, 2}
        (await keep(3, stop_after=1)).close()
        assert kept() == {2}, "one that is on its way counts in full"
        os.utime(tmp_path / "models" / f"{digests[3]}.partial", (0, 0))
        (await keep(0)).close()
        assert kept() == {0, 2}
        (await keep(1)).close()
        assert files(tmp_path / "models") == sorted(f"{digests[number]}/model.onnx" for number in (0, 1))

    asyncio.run(test())


def test_a_model_that_a_connected_server_was_told_of_stays(tmp_path: Path) -> None:
    async def test() -> None:
        models = [mlp(tmp_path / f"{seed}.onnx", seed=seed) for seed in range(3)]
        digests, size = [model_digest(model) for model in models], size_of(models[0])
        store = ModelStore(tmp_path / "models", 2.5 * size)
        one, two = OfferedModels(store), OfferedModels(store)
        assert (await sent(one, models[0], digests[0])).is_whole
        assert (await sent(two, models[0], digests[0])).is_whole
        assert (await sent(two, models[1], digests[1])).is_whole
        refused = (await sent(one, models[2], digests[2])).error
        assert refused is not None
        assert "connected servers need these" in refused.message
        assert "--max-models-size" in refused.hint
        one.close()
        two.withdraw(digests[1])
        too_large = OfferModel(DIGEST, [("m.onnx", 2 * size)])
        assert (await OfferedModels(store).offered(too_large)).error is not None
        assert store.is_whole(digests[1]), "a refused model makes no room"
        assert (await two.offered(OfferModel(digests[1], [("1.onnx", size)]))).is_whole
        assert (await sent(two, models[2], digests[2])).error is not None
        two.close()
        assert (await sent(OfferedModels(store), models[2], digests[2])).is_whole

    asyncio.run(test())


def test_a_model_that_its_server_withdraws_makes_room_while_others_that_have_offered_it_keep_it(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        models = [mlp(tmp_path / f"{seed}.onnx", seed=seed) for seed in range(3)]
        digests, size = [model_digest(model) for model in models], size_of(models[0])
        store = ModelStore(tmp_path / "models", 1.5 * size)
        one, two = OfferedModels(store), OfferedModels(store)
        assert (await sent(one, models[0], digests[0])).is_whole
        assert (await sent(two, models[0], digests[0])).is_whole
        one.withdraw(digests[0])
        assert (await sent(one, models[1], digests[1])).error is not None
        two.withdraw(digests[0])
        assert (await sent(one, models[1], digests[1])).is_whole
        assert not store.is_whole(digests[0])
        one.withdraw(DIGEST)
        assert (await sent(two, models[2], digests[2])).error is not None
        one.close()
        assert (await sent(two, models[2], digests[2])).is_whole

    asyncio.run(test())


def test_a_piece_that_is_being_written_while_its_model_is_withdrawn_is_written(tmp_path: Path) -> None:
    async def test() -> None:
        store = ModelStore(tmp_path / "models")
        offered = OfferedModels(store)
        await offered.offered(OfferModel(DIGEST, [("m.onnx", 5)]))
        async with store.lock(DIGEST):
            taking = asyncio.create_task(offered.take(ModelPiece(DIGEST, 0, 0), memoryview(b"123")))
            await asyncio.sleep(0)
            offered.withdraw(DIGEST)
        assert await taking == ModelState(DIGEST, [3], is_whole=False)

    asyncio.run(test())


def test_by_default_models_take_half_of_what_the_disk_has_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert half_of_disk(tmp_path / "state" / "models") == 500
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "m").write_bytes(bytes(300))
    assert half_of_disk(tmp_path / "a") == 650
