"""The models that an agent has been sent, each in a directory that is named by its digest.

A model is written beside its place, in pieces, and gets its name once it is whole and has its digest. Partly written
models stay, so that sending them goes on there. No name that a server sends leads out of the directory of a model.
"""

import asyncio
import contextlib
import logging
import math
import os
import shutil
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from proteus_cli.errors import EngineError, ProteusError
from proteus_cli.input_files import WEIGHTS
from proteus_cli.serving.devices.process.messages import SentError
from proteus_cli.serving.devices.remote.channel.handing_over import DIGEST, MODEL, model_of
from proteus_cli.serving.devices.remote.channel.messages import PIECE_BYTES, ModelPiece, ModelState, OfferModel
from proteus_cli.serving.logs import fields
from proteus_cli.store import model_digest
from proteus_cli.units import format_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_PARTS = 1000
MAX_NAME_BYTES = 255
MAX_OFFERS = 10_000

_PARTIAL = ".partial"

log = logging.getLogger("proteus.agent")


def half_of_disk(root: Path) -> float:
    """Half of what the disk of a directory has free, with what is there already: the rest is for engines and others."""
    return (_free_bytes(root) + _bytes_below(root)) / 2


def _free_bytes(root: Path) -> int:
    """For the disk of a directory, which need not exist yet."""
    there = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


class ModelStore:
    """The directory of all models of an agent, of up to ``max_bytes``: the models that were used last stay.

    Models that a connected server has offered are held for it, also once they are whole: the server counts on them.
    """

    def __init__(self, root: Path, max_bytes: float = math.inf) -> None:
        self._root, self._max_bytes = root, max_bytes
        self._held: dict[str, list[int]] = {}  # by digest, for each server the size that it has offered
        self._locks = defaultdict[str, asyncio.Lock](asyncio.Lock)
        self._making_room = asyncio.Lock()

    @property
    def free_disk_bytes(self) -> int:
        """The free bytes on the disk of the models."""
        return _free_bytes(self._root)

    def path_of(self, digest: str) -> Path:
        """Where a whole model is, which counts as used. Raises `EngineError` where there is none of this digest."""
        return model_of(self._root, digest)

    def is_whole(self, digest: str) -> bool:
        """Whether all bytes of a model are here."""
        return (self._root / digest / MODEL).is_file()

    def partial(self, digest: str) -> Path:
        """Where a model is that is not whole."""
        return self._root / f"{digest}{_PARTIAL}"

    def lock(self, digest: str) -> asyncio.Lock:
        """The lock of a model, for who writes it: several servers may send the same one."""
        return self._locks[digest]

    async def hold(self, digest: str, size: int) -> None:
        """Keep a model of so many bytes until `release`. Raises `EngineError` where there is no room for it."""
        self._held.setdefault(digest, []).append(size)
        has_room = False
        try:
            async with self._making_room:
                held_bytes = {each: max(sizes) for each, sizes in self._held.items()}
                has_room = self.is_whole(digest) or await asyncio.to_thread(self._make_room, held_bytes)
        finally:
            if not has_room:
                self.release(digest, size)
        if not has_room:
            raise EngineError(
                f"The agent's models may take {format_size(self._max_bytes)}, and connected servers need these.",
                hint="give the agent a larger `--max-models-size`",
            )

    def release(self, digest: str, size: int) -> None:
        """End a `hold`: the model may be removed once no server holds it."""
        self._held[digest].remove(size)
        if not self._held[digest]:
            del self._held[digest]

    def _make_room(self, held_bytes: "Mapping[str, int]") -> bool:
        """Remove models that are not held, least recently used first, until all fit; none if the held ones do not."""
        found, used_s = Counter[str](held_bytes), dict[str, float]()
        for path in self._root.iterdir() if self._root.is_dir() else ():
            digest = path.name.removesuffix(_PARTIAL)
            with contextlib.suppress(FileNotFoundError):  # it has become whole, so it is held
                found[digest] = max(found[digest], _bytes_below(path))
                used_s[digest] = path.stat().st_mtime
        if sum(found[digest] for digest in held_bytes) > self._max_bytes:
            return False
        left_bytes = self._max_bytes - found.total()
        for digest in sorted(used_s.keys() - held_bytes.keys(), key=lambda each: used_s[each]):
            if left_bytes >= 0:
                break
            for path in filter(Path.exists, (self._root / digest, self.partial(digest))):
                shutil.rmtree(path)
            log.info("removed a model, to have room for another: %s", digest, extra=fields(bytes=found[digest]))
            left_bytes += found[digest]
        return True


class OfferedModels:
    """The models that one server has offered, and sends."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._offers: dict[str, Sequence[tuple[str, int]]] = {}
        self._is_closed = False

    def close(self) -> None:
        """The server is gone: what it offered need not stay."""
        self._is_closed = True
        for digest, parts in self._offers.items():
            self._store.release(digest, _size_of(parts))

    def withdraw(self, digest: str) -> None:
        """The server needs a model no more; nothing where it has not offered it."""
        if digest in self._offers:
            self._store.release(digest, _size_of(self._offers.pop(digest)))

    async def offered(self, offer: OfferModel) -> ModelState:
        """How much there is of a model, which is kept from now on."""
        problem = _problem(offer) if len(self._offers) < MAX_OFFERS else "the server has too many"
        if problem is not None:
            return _refusal(offer.digest, EngineError(f"The agent does not take the model: {problem}."))
        if offer.digest not in self._offers:
            try:
                await self._store.hold(offer.digest, _size_of(offer.parts))
            except EngineError as error:
                return _refusal(offer.digest, error)
            if self._is_closed or offer.digest in self._offers:
                self._store.release(offer.digest, _size_of(offer.parts))
            self._offers.setdefault(offer.digest, offer.parts)
        async with self._store.lock(offer.digest):
            return await self._state(offer.digest, self._offers.get(offer.digest, offer.parts))

    async def take(self, piece: ModelPiece, content: memoryview) -> ModelState:
        """Write a piece of a model that was offered, and the model itself once it is whole.

        A piece that another server has sent meanwhile is left out: the state says where to go on.
        """
        parts = self._offers.get(piece.digest)
        is_offered = parts is not None and 0 <= piece.part < len(parts) and piece.offset >= 0
        if parts is None or not is_offered or not 0 < len(content) <= PIECE_BYTES:
            return _refusal(piece.digest, EngineError("A piece of a model came that was not offered."))
        async with self._store.lock(piece.digest):
            if self._store.is_whole(piece.digest):
                return await self._state(piece.digest, parts)
            path, size = self._part(piece.digest, parts, piece.part), parts[piece.part][1]
            there = _size(path)
            if piece.offset > there or piece.offset + len(content) > size:
                return _refusal(piece.digest, EngineError("A piece of a model does not fit what is there of it."))
            try:
                if piece.offset == there:
                    await asyncio.to_thread(_append, path, content)
            except OSError as error:
                return _refusal(piece.digest, EngineError(f"The agent can't write a model: {error.strerror}."))
            return await self._state(piece.digest, parts)

    async def _state(self, digest: str, parts: "Sequence[tuple[str, int]]") -> ModelState:
        sizes = [size for _, size in parts]
        if self._store.is_whole(digest):
            return ModelState(digest, sizes, is_whole=True)
        there = [_size(self._part(digest, parts, place)) for place in range(len(parts))]
        if there != sizes:
            return ModelState(digest, there, is_whole=False)
        try:
            await asyncio.to_thread(_finish, self._store.partial(digest), digest)
        except ProteusError as error:
            return _refusal(digest, error)
        return ModelState(digest, sizes, is_whole=True)

    def _part(self, digest: str, parts: "Sequence[tuple[str, int]]", place: int) -> Path:
        name = MODEL if place == 0 else parts[place][0]
        return self._store.partial(digest) / name


def _finish(partial: Path, digest: str) -> None:
    """Raises `EngineError` where what was sent is another model: it was changed meanwhile. It is removed then."""
    found = model_digest(partial / MODEL)
    try:
        if found == digest:
            for path in filter(Path.is_file, partial.rglob("*")):
                _sync(path)
            partial.rename(partial.with_name(digest))
            return
        shutil.rmtree(partial)
    except OSError as error:
        raise EngineError(f"The agent can't keep a model: {error.strerror}.") from error
    raise EngineError(
        "What the agent got is not the model that was announced: its file was changed while it was sent.",
        hint="try again once it is as it stays",
    )


def _problem(offer: OfferModel) -> str | None:
    if not DIGEST.fullmatch(offer.digest):
        return "it has no digest"
    if not 0 < len(offer.parts) <= MAX_PARTS:
        return f"it has {len(offer.parts)} files"
    names = [name for name, _ in offer.parts[1:]]
    if len({MODEL, *names}) != len(offer.parts) or not all(map(_is_below, names)):
        return "its files have names that lead elsewhere"
    if {str(parent) for name in names for parent in PurePosixPath(name).parents} & {MODEL, *names}:
        return "one of its files is a directory of another"
    if not all(0 < size <= WEIGHTS.max_bytes for _, size in offer.parts):
        return "a file is empty, or larger than allowed"
    return None


def _is_below(name: str) -> bool:
    """Whether a name leads to a file below the directory that it is relative to."""
    parts = PurePosixPath(name).parts
    plain = name.isprintable() and "\\" not in name and len(name.encode()) <= MAX_NAME_BYTES
    return plain and bool(parts) and not name.startswith("/") and not {"..", "."} & set(name.split("/"))


def _refusal(digest: str, error: ProteusError) -> ModelState:
    return ModelState(digest, [], is_whole=False, error=SentError.of(error))


def _size(path: Path) -> int:
    """The bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _append(path: Path, content: memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(content)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _size_of(parts: "Sequence[tuple[str, int]]") -> int:
    return sum(size for _, size in parts)


def _bytes_below(directory: Path) -> int:
    return sum(map(_size, filter(Path.is_file, directory.rglob("*"))))
