"""The models that an agent has been sent, each in a directory that is named by its digest.

A model is written beside its place, in pieces, and gets its name once it is whole and has its digest. What was written
of others stays, so that sending them goes on there. No name that a server sends leads out of the directory of a model.
"""

import asyncio
import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from proteus_cli.errors import EngineError, ProteusError
from proteus_cli.input_files import WEIGHTS
from proteus_cli.serving.devices.process.messages import SentError
from proteus_cli.serving.devices.remote.messages import PIECE_BYTES, ModelPiece, ModelState, OfferModel
from proteus_cli.store import model_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL = "model.onnx"
MAX_PARTS = 1000
MAX_NAME_BYTES = 255
MAX_OFFERS = 1000

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PARTIAL = ".partial"


class ModelStore:
    """The directory of all models of an agent, and what one server has offered of them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._offers: dict[str, Sequence[tuple[str, int]]] = {}

    def path_of(self, digest: str) -> Path:
        """Where a whole model is. Raises `EngineError` where there is none of this digest."""
        path = self._root / digest / MODEL
        if not _DIGEST.fullmatch(digest) or not path.is_file():
            raise EngineError(
                f"The agent has no model `{digest[:64]}`.", hint="the server sends it before it is loaded"
            )
        return path

    async def offered(self, offer: OfferModel) -> ModelState:
        """How much of a model there is."""
        problem = _problem(offer) if len(self._offers) < MAX_OFFERS else "too many are on their way"
        if problem is not None:
            return _refusal(offer.digest, EngineError(f"The agent does not take the model: {problem}."))
        if (self._root / offer.digest / MODEL).is_file():
            return ModelState(offer.digest, [size for _, size in offer.parts], is_whole=True)
        self._offers[offer.digest] = offer.parts
        return await self._state(offer.digest)

    async def take(self, piece: ModelPiece, content: memoryview) -> ModelState:
        """Write a piece of a model that was offered, and the model itself once it is whole."""
        parts = self._offers.get(piece.digest)
        if parts is None or not 0 <= piece.part < len(parts) or not 0 < len(content) <= PIECE_BYTES:
            return _refusal(piece.digest, EngineError("A piece of a model came that was not offered."))
        path, size = self._part(piece.digest, piece.part), parts[piece.part][1]
        if piece.offset != _size(path) or piece.offset + len(content) > size:
            return _refusal(piece.digest, EngineError("A piece of a model does not fit what is there of it."))
        try:
            await asyncio.to_thread(_append, path, content)
        except OSError as error:
            return _refusal(piece.digest, EngineError(f"The agent can't write a model: {error.strerror}."))
        return await self._state(piece.digest)

    async def _state(self, digest: str) -> ModelState:
        parts = self._offers[digest]
        sizes = [_size(self._part(digest, place)) for place in range(len(parts))]
        if sizes != [size for _, size in parts]:
            return ModelState(digest, sizes, is_whole=False)
        del self._offers[digest]
        try:
            await asyncio.to_thread(self._finish, digest)
        except ProteusError as error:
            return _refusal(digest, error)
        return ModelState(digest, sizes, is_whole=True)

    def _part(self, digest: str, place: int) -> Path:
        name = MODEL if place == 0 else self._offers[digest][place][0]
        return self._root / f"{digest}{_PARTIAL}" / name

    def _finish(self, digest: str) -> None:
        """Raises `EngineError` where what was sent is another model: it was changed meanwhile. It is removed then."""
        partial = self._root / f"{digest}{_PARTIAL}"
        found = model_digest(partial / MODEL)
        try:
            if found == digest:
                for path in filter(Path.is_file, partial.rglob("*")):
                    _sync(path)
                partial.rename(self._root / digest)
                return
            _remove(partial)
        except OSError as error:
            raise EngineError(f"The agent can't keep a model: {error.strerror}.") from error
        raise EngineError(
            "What the agent got is not the model that was announced: its file was changed while it was sent.",
            hint="try again once it is as it stays",
        )


def _problem(offer: OfferModel) -> str | None:
    if not _DIGEST.fullmatch(offer.digest):
        return "it has no digest"
    if not 0 < len(offer.parts) <= MAX_PARTS:
        return f"it has {len(offer.parts)} files"
    names = [name for name, _ in offer.parts[1:]]
    if len({MODEL, *names}) != len(offer.parts) or not all(map(_is_below, names)):
        return "its files have names that lead elsewhere"
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


def _remove(directory: Path) -> None:
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    directory.rmdir()
