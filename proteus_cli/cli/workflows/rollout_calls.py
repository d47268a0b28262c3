"""What `proteus rollout` asks a server."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import msgspec

from proteus_cli.cli.workflows.live_replay import token, trusting
from proteus_cli.domain.rollouts import RolloutStatus
from proteus_cli.errors import ServerError, UsageError
from proteus_cli.replay.http_client import HttpClient, HttpReply, why_unreachable
from proteus_cli.serving.adaptation.rollout_requests import (
    RolloutAbortion,
    RolloutPromotion,
    RolloutsStatus,
    RolloutStart,
)
from proteus_cli.urls import path_of

PATH = "/v2/proteus/rollouts"
REPLY_WITHIN_S = 60.0
_NOT_THERE = "is it running? `--url` names another server"
_OK, _BAD_REQUESTS = 200, {400, 422}
_HINTS = {
    401: "set PROTEUS_TOKEN to a token that the server takes",
    409: "`proteus rollout status` lists the roll-outs and their steps",
}
"""By status of an answer."""

Told = TypeVar("Told", RolloutStatus, RolloutsStatus)


class _Problem(msgspec.Struct):
    error: str


class RolloutCalls:
    """Calls of the server at ``url`` about roll-outs; ``ca`` is to be trusted.

    All raise `ServerError`, or `UsageError` where something wrong is asked.
    """

    def __init__(self, url: str, ca: Path | None) -> None:
        self._url, self._ca = url, ca

    def start(self, asked: RolloutStart) -> RolloutStatus:
        """Start a roll-out. Returns its status."""
        return asyncio.run(self._asked("", asked, RolloutStatus))

    def status(self) -> RolloutsStatus:
        return asyncio.run(self._asked("", None, RolloutsStatus))

    def promote(self, family: str, *, fully: bool) -> RolloutStatus:
        """Go on with the roll-out of a family by one step, or ``fully``. Returns its status."""
        return asyncio.run(self._asked(f"/{path_of(family)}/promote", RolloutPromotion(fully), RolloutStatus))

    def abort(self, family: str, reason: str) -> RolloutStatus:
        """Have the old version of a family serve alone again, and note why. Returns its status."""
        return asyncio.run(self._asked(f"/{path_of(family)}/abort", RolloutAbortion(reason), RolloutStatus))

    async def _asked(self, path: str, body: msgspec.Struct | None, kind: type[Told]) -> Told:
        """``body``: None is GET."""
        async with aclosing(HttpClient(self._url, token(), trusting(self._ca))) as client:
            try:
                async with asyncio.timeout(REPLY_WITHIN_S):
                    if body is None:
                        reply = await client.get(PATH)
                    else:
                        head = client.head("POST", f"{PATH}{path}")
                        reply = await client.post(
                            head, b"Content-Type: application/json\r\n", msgspec.json.encode(body)
                        )
            except TimeoutError:
                raise ServerError(f"`{self._url}` does not answer.", hint=_NOT_THERE) from None
            except UnicodeEncodeError as error:  # an argument may be bytes that are no text
                raise UsageError(f"That can't be asked: {error}.", hint="write it in letters") from None
            except OSError as error:
                why = why_unreachable(error)
                raise ServerError(f"Can't reach the server at `{self._url}`: {why}.", hint=_NOT_THERE) from error
        return self._read(reply, kind)

    def _read(self, reply: HttpReply, kind: type[Told]) -> Told:
        try:
            if reply.status == _OK:
                return msgspec.json.decode(reply.body, type=kind)
            why = msgspec.json.decode(reply.body, type=_Problem).error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ServerError(
                f"`{self._url}` answered {reply.status} with something else than it should: {error}.",
                hint="is it a Proteus server of this version?",
            ) from None
        if reply.status in _BAD_REQUESTS:
            raise UsageError(f"The server refuses: {why.rstrip('.')}.")
        raise ServerError(f"The server refuses: {why.rstrip('.')}.", hint=_HINTS.get(reply.status, ""))
