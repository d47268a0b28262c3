"""Models on their way to an agent, which keeps them by digest: each is sent once, and goes on where it broke off."""

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from proteus_cli.buffers import Buffer
from proteus_cli.errors import ArtefactError, EngineError, ProteusError
from proteus_cli.serving.devices.executor import settle
from proteus_cli.serving.devices.remote.channel.messages import (
    PIECE_BYTES,
    PIECES_ON_THE_WAY,
    ModelPiece,
    ModelState,
    OfferModel,
    WithdrawModel,
)
from proteus_cli.store import ModelStamp, model_digest, model_parts, model_stamp

log = logging.getLogger("proteus.cluster")

MAX_SILENT_S = 60.0
"""Seconds without news from the agent after which an upload fails: the disk there hangs. The agent keeps what it
has."""

Send = Callable[[msgspec.Struct, Sequence[Buffer]], object]
_Asked = tuple[OfferModel | ModelPiece, "asyncio.Future[ModelState]"]


@dataclass(frozen=True, slots=True)
class KnownModel:
    """The files of a model when it was last read, and its digest then."""

    parts: Sequence[Path]
    stamp: ModelStamp
    digest: str

    @classmethod
    def read(cls, model: Path) -> "KnownModel":
        """Raises `ArtefactError`."""
        parts = model_parts(model)
        stamp = model_stamp(parts)
        return cls(parts, stamp, model_digest(model))

    @property
    def is_current(self) -> bool:
        """Whether its files are as they were when they were digested."""
        return self.stamp == model_stamp(self.parts)


class KnownModels:
    """The models of a server, by file: each is read once for all hosts and connections, until it changes."""

    def __init__(self) -> None:
        self._known: dict[Path, KnownModel] = {}
        self._reading: dict[Path, asyncio.Task[KnownModel]] = {}

    async def of(self, model: Path) -> KnownModel:
        """Raises `ArtefactError`. Where the caller is cancelled, the model is read all the same, for the next one."""
        known = self._known.get(model)
        if known is not None and known.is_current:
            return known
        if model not in self._reading:
            self._reading[model] = asyncio.create_task(asyncio.to_thread(KnownModel.read, model))
            self._reading[model].add_done_callback(lambda reading: self._read(model, reading))
        return await asyncio.shield(self._reading[model])

    def _read(self, model: Path, reading: "asyncio.Task[KnownModel]") -> None:
        del self._reading[model]
        if not reading.cancelled() and reading.exception() is None:
            self._known[model] = reading.result()


class Uploads:
    """The models that an agent has, as far as this session knows, and the models on their way to it."""

    def __init__(self, send: Send, known: KnownModels) -> None:
        self._send, self._known = send, known
        self._one_each: dict[str, asyncio.Lock] = {}  # by digest
        self._there: set[str] = set()
        self._digests: dict[Path, str] = {}  # of what was sent last of each file
        self._ahead: dict[Path, None] = {}  # what is to be sent
        self._sending_ahead: asyncio.Task[None] | None = None
        self._asked = defaultdict[str, deque[_Asked]](deque)  # by digest, in the order of answers
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, model: Path) -> "asyncio.Future[str]":
        """Send a model unless the agent has it. The future gets its digest, or `EngineError`; nothing once closed."""
        sent: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._start(self._upload_for(model, sent))
        return sent

    def send_ahead(self, models: Iterable[Path]) -> None:
        """Send models one after another, so that no load waits for the network later."""
        self._ahead |= dict.fromkeys(models)
        if self._sending_ahead is None or self._sending_ahead.done():
            self._sending_ahead = self._start(self._upload_ahead())

    def forget(self, models: Iterable[Path]) -> None:
        """The agent need not keep these models any more."""
        for model in models:
            self._ahead.pop(model, None)
            self._withdraw(self._digests.pop(model, None))

    def state(self, state: ModelState) -> bool:
        """The agent has answered an offer, or a piece; False where that cannot be an answer."""
        if asked := self._asked.get(state.digest):
            message, answer = asked.popleft()
            if not _fits(state, message):
                return False
            settle(answer, state)
        return True

    def close(self) -> None:
        """Give up all uploads that are under way."""
        for task in self._tasks:
            task.cancel()

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _upload_ahead(self) -> None:
        while self._ahead:
            model = next(iter(self._ahead))
            del self._ahead[model]
            try:
                await self._upload(model)
            except ProteusError as error:
                log.warning("`%s` can't be sent ahead: %s", model, error.message)

    async def _upload_for(self, model: Path, sent: "asyncio.Future[str]") -> None:
        try:
            settle(sent, await self._upload(model))
        except ProteusError as error:
            settle(sent, error if isinstance(error, EngineError) else EngineError(error.message, hint=error.hint))
        except Exception as error:
            settle(sent, error)
            raise

    async def _upload(self, model: Path) -> str:
        known = await self._known.of(model)
        before, self._digests[model] = self._digests.get(model), known.digest
        self._withdraw(before)
        async with self._one_each.setdefault(known.digest, asyncio.Lock()):
            if known.digest not in self._there:
                await self._send_missing(model, known.parts, known.digest)
                self._there.add(known.digest)
        return known.digest

    def _withdraw(self, digest: str | None) -> None:
        """Withdraw a model, unless a file still has this digest."""
        if digest is not None and digest not in self._digests.values():
            self._start(self._send_withdrawal(digest))

    async def _send_withdrawal(self, digest: str) -> None:
        async with self._one_each.setdefault(digest, asyncio.Lock()):
            if digest not in self._digests.values():
                self._there.discard(digest)
                self._send(WithdrawModel(digest), ())

    async def _send_missing(self, model: Path, parts: Sequence[Path], digest: str) -> None:
        """Raises `EngineError` where the agent can't keep it, or where it changes meanwhile."""
        try:
            named = [(part.relative_to(model.parent).as_posix(), part.stat().st_size) for part in parts]
        except OSError as error:
            raise ArtefactError(f"Can't read `{model}`: {error.strerror}.") from error
        state = await _answer_of(self._ask(OfferModel(digest, named)))
        missing, on_the_way = _missing(named, state.sizes), deque[asyncio.Future[ModelState]]()
        while not state.is_whole:
            for place, offset in islice(missing, PIECES_ON_THE_WAY - len(on_the_way)):
                piece = await asyncio.to_thread(_read, parts[place], offset)
                if piece:  # else the file has become shorter
                    on_the_way.append(self._ask(ModelPiece(digest, place, offset), piece))
            if not on_the_way:
                raise EngineError(f"`{model}` was changed while it was sent.", hint="try again once it is as it stays")
            state = await _answer_of(on_the_way.popleft())

    def _ask(self, message: OfferModel | ModelPiece, *behind: Buffer) -> "asyncio.Future[ModelState]":
        answer: asyncio.Future[ModelState] = asyncio.get_running_loop().create_future()
        self._asked[message.digest].append((message, answer))
        self._send(message, behind)
        return answer


def _fits(state: ModelState, message: OfferModel | ModelPiece) -> bool:
    """Whether it answers a message: with a size for each file that was offered, or with the piece that was sent."""
    if state.is_whole or state.error is not None:
        return True
    if isinstance(message, OfferModel):
        return len(state.sizes) == len(message.parts)
    return message.part < len(state.sizes) and message.offset < state.sizes[message.part]


async def _answer_of(asked: "asyncio.Future[ModelState]") -> ModelState:
    """Raises `EngineError` where the agent refuses, or says nothing."""
    try:
        async with asyncio.timeout(MAX_SILENT_S):
            state = await asked
    except TimeoutError:
        raise EngineError(f"The agent has said nothing of a model for {MAX_SILENT_S:.0f} s.") from None
    if state.error is not None:
        raise EngineError(state.error.message, hint=state.error.hint)
    return state


def _missing(named: Sequence[tuple[str, int]], there: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The part and the offset of each piece of a model that the agent does not have."""
    for place, ((_, size), had) in enumerate(zip(named, there, strict=True)):
        for offset in range(had, size, PIECE_BYTES):
            yield place, offset


def _read(part: Path, offset: int) -> bytes:
    """Raises `ArtefactError`."""
    try:
        with part.open("rb") as file:
            file.seek(offset)
            return file.read(PIECE_BYTES)
    except OSError as error:
        raise ArtefactError(f"Can't read `{part}`: {error.strerror}.") from error
