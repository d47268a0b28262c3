"""The server among bad clients: every request ends once, memory stays flat, good clients are served, it stops."""

import signal
import threading
import time
from pathlib import Path
from statistics import median

import pytest
from chaos import MAX_BODY, PATIENCE_S, Chaos, Sample, percentile, sample
from injecting import until
from live_server import ANSWER_WITHIN_S, LiveServer, serving
from tiny import Tiny, TinyFamily, TinyVariant, add_plan, add_profiles, looking_up, make_workspace

from proteus_cli.units import parse_duration

pytestmark = [pytest.mark.live, pytest.mark.alone, pytest.mark.extended, pytest.mark.from_nothing]

WARM_UP_S = 3.0
FLAT_BYTES = 12 * 2**20


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    variant = TinyVariant("shapes-s", 0.7, hidden=4, first_s=0.002, row_s=0.0005)
    tiny = make_workspace(tmp_path / "ws", (TinyFamily("shapes", (variant,), slo="300ms"),))
    looking_up(tiny.model("shapes-s"))
    add_profiles(tiny)
    add_plan(tiny, {"cpu0": "shapes-s", "cpu1": "shapes-s"})
    return tiny


@pytest.mark.timeout(0)
def test_chaos(made: Tiny, request: pytest.FixtureRequest) -> None:
    lasts_s = parse_duration(request.config.getoption("--chaos"))
    options = ("--replan=off", f"--set=max-body={MAX_BODY}B", "--set=max-connections=100")
    with serving(made.root, Path("plan"), *options) as live:
        live.infer("shapes", {})
        before = sample(live.process.pid)
        chaos = Chaos(live.port)
        with chaos.raging():
            samples = watched(live, lasts_s)
            until(lambda: chaos.tally.ended["served"] > 50 * lasts_s)  # later than that on a busy machine
        quiet = settled(live, before)
        counted = {name: number for name, number in live.status()["outcomes"]["shapes"].items() if number}
        summary(chaos, counted, samples, quiet, lasts_s)
        ended_once(chaos, counted)
        assert growth_bytes(samples) < FLAT_BYTES
        assert max(chaos.latencies_s) < PATIENCE_S, "a good client was starved"
        stops_while_raging(live)


def watched(live: LiveServer, lasts_s: float) -> list[Sample]:
    """What the server holds, four times a second; it answers all the while."""
    samples = []
    stop_s = time.monotonic() + lasts_s
    while time.monotonic() < stop_s:
        time.sleep(0.25)
        samples.append(sample(live.process.pid))
        assert live.process.poll() is None, live.log.read_text()
    return samples


def settled(live: LiveServer, before: Sample) -> Sample:
    """What it holds once all clients are gone, and it has no more files open than before."""

    def quiet() -> Sample | None:
        now = sample(live.process.pid)
        return now if now.files <= before.files else None

    found: Sample = until(quiet, lambda: (sample(live.process.pid), before))
    live.until(lambda status: status["inside"] == 0)
    return found


def growth_bytes(samples: list[Sample]) -> float:
    """From the second quarter of the time to the last."""
    quarter = len(samples) // 4
    parts = samples[quarter : 2 * quarter], samples[-quarter:]
    first, last = (median(each.resident_bytes for each in part) for part in parts)
    return last - first


def ended_once(chaos: Chaos, counted: dict[str, int]) -> None:
    """What clients were told is what was counted; the rest are those whose clients did not wait to be told."""
    told = chaos.tally.ended
    assert all(counted.get(outcome, 0) >= number for outcome, number in told.items()), (counted, told)
    assert 0 <= sum(counted.values()) - sum(told.values()) <= chaos.tally.unknown


def stops_while_raging(live: LiveServer) -> None:
    chaos = Chaos(live.port, seed=1)
    stopper = threading.Timer(WARM_UP_S / 2, live.process.send_signal, (signal.SIGTERM,))
    before = sum(live.status()["outcomes"]["shapes"].values())
    with chaos.raging():
        stopper.start()
        assert live.process.wait(ANSWER_WITHIN_S) == 0
    assert "Traceback" not in live.log.read_text()
    counted, told = live.ended(), chaos.tally.ended
    assert 0 <= sum(counted.values()) - before - sum(told.values()) <= chaos.tally.unknown


def summary(chaos: Chaos, counted: dict[str, int], samples: list[Sample], quiet: Sample, lasts_s: float) -> None:
    tally, millions = chaos.tally, 2**20
    first, last = samples[len(samples) // 4].resident_bytes / millions, samples[-1].resident_bytes / millions
    print(  # noqa: T201 - `make chaos` shows it
        f"\nchaos for {lasts_s:.0f} s"
        f"\ntold to clients    {dict(tally.ended)}, and {dict(tally.other)} that did not come in"
        f"\ncounted by server  {counted}"
        f"\nnot waited for     {tally.unknown}"
        f"\ngood clients       p50 {percentile(chaos.latencies_s, 0.5) * 1e3:.1f} ms, "
        f"p99 {percentile(chaos.latencies_s, 0.99) * 1e3:.1f} ms, {chaos.well_behaved_lost} turned away"
        f"\nmemory             {first:.1f} MiB, {last:.1f} MiB at the end"
        f"\nopen files         {max(each.files for each in samples)} at most, {quiet.files} when quiet"
    )
