"""One of three hosts is lost at 60 % load: what goes wrong, and when all is as it was.

Agents are processes of their own on loopback, with emulated devices: times of batches are emulated, and those of what
breaks and comes back are measured. The client is that of `tests/live`, and counts each request as the server does.
"""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cluster.live import (
    LiveAgent,
    LiveServer,
    Relay,
    Steady,
    agents,
    asking,
    make_emulated_hosts,
    metric,
    one_row,
    serving,
    until,
    violations,
    write_hosts,
)
from benchmarks.tables import UNKNOWN, Aim, Table

HOSTS, LOST, FAMILY = "abc", "a", "shapes"
RATE_QPS = 180.0  # 60 % of what three devices carry as accurately as can be
WATCHED_S = 10.0
CALM_S = 2.0
SERVER = "the server is killed"
WAYS = ("an agent is killed", "an agent is stopped", "a cable is cut", SERVER)
PLANNED_WITHIN_S = {WAYS[0]: 1.0, WAYS[1]: 1.5, WAYS[2]: 1.5}


@dataclass(frozen=True, slots=True)
class Loss:
    """What a loss cost: violations (a fraction) of what was asked in the `WATCHED_S` after it, and seconds.

    ``noticed_s`` and ``planned_s`` count from the loss, ``back_s`` from when the host can be reached again until it
    answers. None: does not apply.
    """

    violations: float | None
    retried: int | None
    noticed_s: float | None
    planned_s: float | None
    back_s: float


COLUMNS: Mapping[str, tuple[Callable[[Loss], float | None], float, str]] = {  # how to read it, its unit, its format
    f"violations in the {WATCHED_S:.0f} s after, %": (lambda loss: loss.violations, 100.0, ".2f"),
    "run again": (lambda loss: loss.retried, 1.0, ".0f"),
    "noticed, s": (lambda loss: loss.noticed_s, 1.0, ".2f"),
    "new plan in force, s": (lambda loss: loss.planned_s, 1.0, ".2f"),
    "answers again, s": (lambda loss: loss.back_s, 1.0, ".2f"),
}


def measure(rounds: int) -> dict[str, list[Loss]]:
    """All ways to lose a host, in turns."""
    found: dict[str, list[Loss]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as directory:
        root = make_emulated_hosts(Path(directory) / "ws", HOSTS, RATE_QPS).root
        for _ in range(rounds):
            with agents(root / str(time.monotonic_ns()), HOSTS, emulate=True) as running:
                for way in WAYS:
                    found[way].append(_restarted(root, running) if way == SERVER else _lost(root, running, way))
    return found


def table(found: Mapping[str, Sequence[Loss]]) -> Table:
    """Medians and ranges."""
    rows = tuple(
        (way, *(_cell([read(loss) for loss in losses], factor, form) for read, factor, form in COLUMNS.values()))
        for way, losses in found.items()
    )
    rounds = len(found[WAYS[0]])
    note = (
        f"emulated devices, {RATE_QPS:.0f} qps, 60 % of what three hosts carry; median (range) of {rounds} rounds; "
        "a host answers again: from when it can be reached; for the server: from when it is killed until a client "
        "has an answer of the one that is started at once"
    )
    return Table("One of three hosts is lost", ("what", *COLUMNS), rows, note)


def aims(found: Mapping[str, Sequence[Loss]]) -> list[Aim]:
    """Of medians."""
    wanted = []
    for way, planned_s in PLANNED_WITHIN_S.items():
        wanted += [
            Aim(f"{way}: violations", 100 * _median(found[way], lambda loss: loss.violations), 2.0, "%", is_most=True),
            Aim(f"{way}: new plan", _median(found[way], lambda loss: loss.planned_s), planned_s, "s", is_most=True),
            Aim(f"{way}: answers again", _median(found[way], lambda loss: loss.back_s), 5.0, "s", is_most=True),
        ]
    return [*wanted, Aim(f"{SERVER}: answers again", _median(found[SERVER], lambda loss: loss.back_s), 5.0, "s", True)]


def _median(losses: Sequence[Loss], read: Callable[[Loss], float | None]) -> float:
    return median(value for loss in losses if (value := read(loss)) is not None)


def _cell(values: Sequence[float | None], factor: float, form: str) -> str:
    known = [factor * value for value in values if value is not None]
    if not known:
        return UNKNOWN
    return f"{median(known):{form}} ({min(known):{form}}–{max(known):{form}})"


@contextmanager
def _served(root: Path, ports: Mapping[str, int]) -> Iterator[LiveServer]:
    hosts = write_hosts(root, ports)
    with serving(root, Path("plan"), "--emulate", "--cluster", str(hosts), "--set=resume=false") as live:
        yield live


def _lost(root: Path, running: Mapping[str, LiveAgent], way: str) -> Loss:
    """Lose a host and have it back, while every request is counted at both ends."""
    agent = running[LOST]
    with closing(Relay(agent.port)) as relay:
        lose, bring_back = {
            WAYS[0]: (agent.kill, agent.start),
            WAYS[1]: (lambda: os.kill(agent.pid, signal.SIGSTOP), lambda: os.kill(agent.pid, signal.SIGCONT)),
            WAYS[2]: (relay.hold, relay.release),
        }[way]
        ports = {name: relay.port if way == WAYS[2] and name == LOST else each.port for name, each in running.items()}
        with _served(root, ports) as live:
            found = _watched(live, lose, bring_back)
            assert live.stop() == 0
    return found


def _watched(live: LiveServer, lose: Callable[[], object], bring_back: Callable[[], object]) -> Loss:
    changes, series = len(live.status()["changes"]), f'proteus_retried_requests_total{{family="{FAMILY}"}}'
    retried = metric(live, series)
    with asking(live, {FAMILY: RATE_QPS}, one_row) as steady:
        live.until(lambda status: status["solver"]["is_warm"])
        _until_answers(steady)
        time.sleep(CALM_S)
        lost_s = time.monotonic()
        lose()
        noticed_s = _until(live, lambda status: status["devices"][f"{LOST}/cpu-0"]["losses"] == 1) - lost_s
        planned_s = _until(live, lambda status: len(status["changes"]) > changes) - lost_s
        time.sleep(max(0.0, lost_s + WATCHED_S - time.monotonic()))
        bring_back()
        back_s = _until_answers(steady)
    asked = steady.ended(FAMILY, lost_s, lost_s + WATCHED_S)
    return Loss(violations(asked), int(metric(live, series) - retried), noticed_s, planned_s, back_s)


def _until(live: LiveServer, holds: Callable[[Any], bool]) -> float:
    live.until(holds)
    return time.monotonic()


def _until_answers(steady: Steady) -> float:
    """Seconds until the host that was lost has answered what is sent from now on."""
    now_s = time.monotonic()
    until(lambda: any(ending.device == f"{LOST}/cpu-0" for ending in steady.ended(FAMILY, now_s)), "the host answers")
    return time.monotonic() - now_s


def _restarted(root: Path, running: Mapping[str, LiveAgent]) -> Loss:
    """Kill the server, start another, and ask it once."""
    ports = {name: agent.port for name, agent in running.items()}
    with _served(root, ports) as live:
        with asking(live, {FAMILY: RATE_QPS}, one_row):
            time.sleep(CALM_S)
        killed_s = time.monotonic()
        live.process.kill()
        live.process.wait()
    with _served(root, ports) as live:
        assert live.infer(FAMILY, one_row(0)).status == 200
        back_s = time.monotonic() - killed_s
        assert live.stop() == 0
    return Loss(None, None, None, None, back_s)
