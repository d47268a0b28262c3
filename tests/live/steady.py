"""Clients that ask at a steady rate whatever becomes of their requests, and how each of those ended."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from live_server import LiveServer

from proteus_cli.replay.http_client import HttpClient

PATIENCE_S = 30.0
OF_STATUS = {200: "served", 429: "rejected", 500: "failed", 503: "rejected"}
LOST = "lost"

Body = Callable[[int], bytes]
"""What the request of a number holds."""


@dataclass(frozen=True)
class Ending:
    """How a request ended: when it was sent (`time.monotonic`) and answered, and what was said."""

    family: str
    sent_s: float
    took_s: float
    outcome: str
    status: int = 0
    retry_after: str = ""
    said: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> str:
        return str(self.said.get("device", ""))

    @property
    def variant(self) -> str:
        return str(self.said.get("variant", ""))


def row(value: float = 1.0, columns: int = 4) -> bytes:
    """A request of one row of the same value."""
    tensor = {"name": "x", "shape": [1, columns], "datatype": "FP32", "data": [value] * columns}
    return msgspec.json.encode({"inputs": [tensor]})


def one_row(_: int) -> bytes:
    return _ONE_ROW


_ONE_ROW = row()


class Steady:
    """Asks for families at ``rates_qps``, evenly, in a thread of its own; ``endings`` are in their order."""

    def __init__(self, port: int, rates_qps: Mapping[str, float], body: Body) -> None:
        self.endings: list[Ending] = []
        self._port, self._rates_qps, self._body = port, rates_qps, body
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._asked: set[asyncio.Task[None]] = set()
        self._numbers = Counter[str]()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="steady")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask no more, and wait until all that was asked has ended."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(2 * PATIENCE_S)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def at_once(self, family: str, requests: int, within_s: float) -> None:
        """So many more requests, evenly within that time."""
        self._loop.call_soon_threadsafe(self._add, family, requests / within_s, within_s)

    def ended(self, family: str, since_s: float = 0.0, until_s: float = float("inf")) -> list[Ending]:
        """Those that were sent in that time."""
        return [each for each in list(self.endings) if each.family == family and since_s <= each.sent_s < until_s]

    def devices(self, family: str, since_s: float = 0.0, until_s: float = float("inf")) -> set[str]:
        """The devices that have answered what was sent in that time."""
        return {each.device for each in self.ended(family, since_s, until_s) if each.device}

    def tally(self, family: str) -> dict[str, int]:
        return dict(Counter(each.outcome for each in self.endings if each.family == family))

    # --- in its thread

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._ask_all())
        except BaseException as error:  # noqa: BLE001 - it is raised again where the thread is joined
            self._error = error
        finally:
            self._loop.close()

    async def _ask_all(self) -> None:
        self._client = HttpClient(f"http://127.0.0.1:{self._port}")
        for family, rate_qps in self._rates_qps.items():
            self._add(family, rate_qps, float("inf"))
        await self._stop.wait()
        while self._asked:
            await asyncio.wait(set(self._asked), timeout=PATIENCE_S)
        await self._client.aclose()

    def _add(self, family: str, rate_qps: float, within_s: float) -> None:
        self._keep(self._loop.create_task(self._ask_steadily(family, rate_qps, within_s)))

    def _keep(self, task: "asyncio.Task[None]") -> None:
        self._asked.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._asked.discard(task)
        if (error := task.exception()) is not None:
            self._error = error
            self._stop.set()

    async def _ask_steadily(self, family: str, rate_qps: float, within_s: float) -> None:
        head = self._client.head("POST", f"/v2/models/{family}/infer")
        start_s, number = time.monotonic(), 0
        while number / rate_qps < within_s and not self._stop.is_set():
            await asyncio.sleep(start_s + number / rate_qps - time.monotonic())
            number += 1
            self._numbers[family] += 1
            self._keep(self._loop.create_task(self._ask(family, head, self._body(self._numbers[family]))))

    async def _ask(self, family: str, head: bytes, body: bytes) -> None:
        sent_s = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                reply = await self._client.post(head, b"Content-Type: application/json\r\n", body)
        except (OSError, TimeoutError):
            self.endings.append(Ending(family, sent_s, time.monotonic() - sent_s, LOST))
            return
        outcome = reply.headers.get(b"proteus-outcome", b"").decode() or OF_STATUS.get(reply.status, str(reply.status))
        said = msgspec.json.decode(reply.body)["parameters"] if reply.status == 200 else {}
        retry_after = reply.headers.get(b"retry-after", b"").decode()
        took_s = time.monotonic() - sent_s
        self.endings.append(Ending(family, sent_s, took_s, outcome, reply.status, retry_after, said))


@contextmanager
def asking(live: LiveServer, rates_qps: Mapping[str, float], body: Body) -> Iterator[Steady]:
    """Ask during the block. Afterwards each request has ended once, and as often and as the server has counted it."""
    before = live.status()["outcomes"]
    steady = Steady(live.port, rates_qps, body)
    steady.start()
    try:
        yield steady
    finally:
        steady.stop()
    after = live.until(lambda status: status["inside"] == 0)["outcomes"]
    for family in rates_qps:
        counted = {outcome: after[family][outcome] - before[family][outcome] for outcome in after[family]}
        told = steady.tally(family)
        assert {outcome: count for outcome, count in counted.items() if count} == told, (family, counted, told)


def violations(endings: Sequence[Ending]) -> float:
    """The part of requests that were not answered in time."""
    return sum(each.outcome != "served" for each in endings) / len(endings)
