"""Workers are asked once a turn of the event loop, after all that came in it."""

import asyncio
from typing import Any

from builders import hosted, make_request

from proteus_cli.control.decision import Launch
from proteus_cli.serving.fleet.worker import Workers


class Remembering:
    """A worker that remembers, in a list of all of them, what it was told."""

    def __init__(self, device: str, told: list[object]) -> None:
        self._device, self._told = device, told

    def ask(self) -> None:
        self._told.append(self._device)

    def run(self, launch: Launch) -> None:
        self._told.append((self._device, launch))


def made(*devices: str) -> tuple[Workers, list[object]]:
    """Workers of these devices, and what they are told."""
    workers, told = Workers(), list[object]()
    for device in devices:
        worker: Any = Remembering(device, told)
        workers.by_device[device] = worker
    return workers, told


def test_each_worker_is_asked_once_in_a_turn_and_not_before_its_end() -> None:
    async def run() -> list[list[object]]:
        workers, told = made("cpu0", "cpu1", "cpu2")
        workers.ask_soon(("cpu1", "cpu0"))
        workers.ask_soon(("cpu1",))
        seen = [told.copy()]
        for devices in ((), ("cpu2",), ()):
            await asyncio.sleep(0)
            seen.append(told.copy())
            workers.ask_soon(devices)
        return seen

    assert asyncio.run(run()) == [[], ["cpu1", "cpu0"], ["cpu1", "cpu0"], ["cpu1", "cpu0", "cpu2"]]


def test_the_last_devices_are_known_until_the_turn_ends() -> None:
    async def run() -> list[object]:
        workers, _ = made("cpu0")
        devices = ("cpu0",)
        seen: list[object] = [workers.last_devices]
        workers.ask_soon(devices)
        seen.append(workers.last_devices is devices)
        await asyncio.sleep(0)
        return [*seen, workers.last_devices]

    assert asyncio.run(run()) == [None, True, None]


def test_a_check_runs_on_the_device_that_it_is_for() -> None:
    workers, told = made("cpu0", "cpu1")
    launch = Launch(hosted("cpu1", latency_s={1: 0.01}), (make_request(),), 1, 0.0)
    workers.run(launch)
    assert told == [("cpu1", launch)]
