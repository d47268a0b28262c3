"""Models on their way to an agent, which keeps them by digest: each is sent once, and goes on where it broke off."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from proteus_cli.domain.arrays import Buffer
from proteus_cli.errors import ArtefactError, EngineError, ProteusError
from proteus_cli.serving.devices.executor import settle
from proteus_cli.serving.devices.remote.messages import PIECE_BYTES, ModelPiece, ModelState, OfferModel
from proteus_cli.store import model_digest, model_parts

Send = Callable[[msgspec.Struct, Sequence[Buffer]], None]


class Uploads:
    """The models that an agent has, as far as this session knows, and those that are being sent to it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._one_each: dict[str, asyncio.Lock] = {}  # by digest
        self._there: set[str] = set()
        self._states: dict[str, asyncio.Future[ModelState]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, model: Path) -> "asyncio.Future[str]":
        """Send a model unless the agent has it. The future gets its digest, or `EngineError`; nothing once closed."""
        sent: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._upload_for(model, sent))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return sent

    def state(self, state: ModelState) -> None:
        """The agent has answered an offer, or a piece."""
        if state.digest in self._states:
            settle(self._states[state.digest], state)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _upload_for(self, model: Path, sent: "asyncio.Future[str]") -> None:
        try:
            settle(sent, await self._upload(model))
        except ProteusError as error:
            settle(sent, error if isinstance(error, EngineError) else EngineError(error.message, hint=error.hint))

    async def _upload(self, model: Path) -> str:
        digest = await asyncio.to_thread(model_digest, model)
        async with self._one_each.setdefault(digest, asyncio.Lock()):
            if digest not in self._there:
                await self._send_missing(model, digest)
                self._there.add(digest)
        return digest

    async def _send_missing(self, model: Path, digest: str) -> None:
        """Raises `EngineError` where the agent can't keep it, or where it changes meanwhile."""
        parts = await asyncio.to_thread(model_parts, model)
        named = [(part.relative_to(model.parent).as_posix(), part.stat().st_size) for part in parts]
        state = await self._ask(OfferModel(digest, named))
        while not state.is_whole:
            place = next((n for n, (_, size) in enumerate(named) if state.sizes[n] < size), None)
            if place is None:
                raise EngineError(f"`{model}` was changed while it was sent.", hint="try again once it is as it stays")
            offset = state.sizes[place]
            piece = await asyncio.to_thread(_read, parts[place], offset)
            if not piece:
                raise EngineError(f"`{model}` was changed while it was sent.", hint="try again once it is as it stays")
            state = await self._ask(ModelPiece(digest, place, offset), piece)

    async def _ask(self, message: OfferModel | ModelPiece, *behind: Buffer) -> ModelState:
        answer: asyncio.Future[ModelState] = asyncio.get_running_loop().create_future()
        self._states[message.digest] = answer
        self._send(message, behind)
        state = await answer
        if state.error is not None:
            raise EngineError(state.error.message, hint=state.error.hint)
        return state


def _read(part: Path, offset: int) -> bytes:
    """Raises `ArtefactError`."""
    try:
        with part.open("rb") as file:
            file.seek(offset)
            return file.read(PIECE_BYTES)
    except OSError as error:
        raise ArtefactError(f"Can't read `{part}`: {error.strerror}.") from error
