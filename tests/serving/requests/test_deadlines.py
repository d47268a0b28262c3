"""Requests are told once their deadlines have passed."""

import asyncio
from typing import Any

from proteus_cli.serving.requests.in_flight import InFlightRequest, nobody
from proteus_cli.serving.requests.results import TimingWheel


def test_a_bug_at_one_deadline_keeps_no_other_request_from_being_told() -> None:
    """Neither one that is due at the same moment nor a later one."""
    told, bugs = list[int](), list[dict[str, Any]]()

    async def play() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: bugs.append(context))
        later = asyncio.Event()

        def expired(request: InFlightRequest) -> None:
            told.append(request.id)
            if request.id == 0:
                raise RuntimeError("a bug")
            if request.id == 2:
                later.set()

        wheel = TimingWheel(loop.time, expired)
        for number, after_s in enumerate((0.0, 0.0, 0.02)):
            wheel.watch(InFlightRequest(number, "f", loop.time(), loop.time() + after_s, done=nobody, inputs=()))
        await asyncio.wait_for(later.wait(), 30)

    asyncio.run(play())
    assert (told, [str(each["exception"]) for each in bugs]) == ([0, 1, 2], ["a bug"])
