"""Everything that can break under a running server, broken from outside: what it costs, and how it comes back.

The solver and the disk of the plan history break in `test_solver_faults.py` and `test_plan_history_live.py`. Emulated
devices are processes as real ones are, but burn no CPU: their times are those of their profiles.
"""

import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgspec
import pytest
from injecting import (
    MEDDLING,
    WallClock,
    cpu_s,
    descendants,
    is_gone,
    kill_at_work,
    metric,
    open_files,
    pid_of,
    slowed_down,
    until,
    until_said,
)
from live_server import ANSWER_WITHIN_S, LiveServer, expect_stopped_well, serving
from small_cluster import EMULATED, RATES_QPS, make_small_cluster, one_row
from steady import asking, row, violations
from tiny import SHAPES, Tiny, TinyFamily, TinyVariant, add_plan, add_profiles, looking_up, make_workspace, mlp
from worn_models import looking_up_twice, overwrite, weights_of

from proteus_cli.serving.adaptation.plan_journal import records
from proteus_cli.store import Workspace, write_text

pytestmark = [pytest.mark.live, pytest.mark.alone, pytest.mark.extended, pytest.mark.from_nothing]

PROCESSES = ("--set=executor=process",)


def broken(status: dict[str, Any]) -> dict[tuple[str, str], str]:
    """By device and variant, the engines that plans do without, each with the reason."""
    devices = status["devices"].items()
    return {(device, variant): why for device, of in devices for variant, why in of["broken"].items()}


def is_back(losses: int, name: str) -> Callable[[Any], bool]:
    """The device has been lost so often, and is there."""
    return lambda status: status["devices"][name]["losses"] == losses and status["devices"][name]["breaker"] == "closed"


def has_solved(times: int) -> Callable[[Any], bool]:
    """So many solves have been asked for."""
    return lambda status: bool(status["solver"]["solves"] >= times)


def hosted(status: Any, family: str) -> set[str]:
    return {placement["variant"] for placement in status["placements"] if placement["family"] == family}


def is_asked(status: Any, family: str) -> bool:
    """Whether the server knows the demand."""
    return bool(status["families"][family]["demand_qps"] > 0.9 * RATES_QPS[family])


def losses_of(live: LiveServer, name: str) -> int:
    return int(live.status()["devices"][name]["losses"])


def lose_until_planned_without(live: LiveServer, name: str) -> int:
    """Kill a device of `shapes` at work, again where it is back before a plan counts on the others alone.

    Returns how often it has been lost by then.
    """
    losses = losses_of(live, name)

    def is_planned() -> bool:
        nonlocal losses
        status = live.status()
        if is_back(losses, name)(status):
            kill_at_work(status["devices"][name]["pid"])
            losses += 1
        return "shapes-fast" in hosted(status, "shapes")

    until(is_planned)
    return losses


# --- devices


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Its SLO is longer than a busy machine stalls: what misses it was lost, or is more than can be carried."""
    made = make_small_cluster(tmp_path_factory.mktemp("faults") / "ws", slo="3s")
    with serving(made.root, Path("plan"), *EMULATED) as live:
        yield live
        expect_stopped_well(live)


def test_with_one_of_two_devices_lost_at_60_percent_load_few_requests_notice(cluster: LiveServer) -> None:
    """The target: what ran there is run on the other, and under 2 % of the next 10 s go wrong."""
    with asking(cluster, RATES_QPS, one_row) as steady:
        cluster.until(lambda status: status["solver"]["is_warm"] and is_asked(status, "shapes"))
        retried = metric(cluster, 'proteus_retried_requests_total{family="shapes"}')
        lost_s = time.monotonic()
        losses = lose_until_planned_without(cluster, "a-0")
        cluster.until(is_back(losses, "a-0"))
        back_s = time.monotonic()
        until(lambda: steady.devices("shapes", back_s) == {"a-0", "a-1"})
        until(lambda: len(steady.ended("shapes", lost_s)) >= 10.0 * RATES_QPS["shapes"])
    after = steady.ended("shapes", lost_s)
    assert violations(after) < 0.02
    assert {ending.variant for ending in after if ending.variant} == {"shapes-good", "shapes-fast"}
    assert metric(cluster, 'proteus_retried_requests_total{family="shapes"}') > retried
    assert set(steady.tally("tones")) == {"served"}
    reasons = "; ".join(change["reason"] for change in cluster.status()["changes"])  # one change may have both
    assert "a-0 was lost" in reasons
    assert "a-0 is back" in reasons
    assert metric(cluster, 'proteus_device_losses_total{device="a-0"}') == losses


def test_a_device_that_hangs_is_noticed_given_up_and_taken_back(cluster: LiveServer) -> None:
    lost_before, hung = losses_of(cluster, "a-1"), pid_of(cluster, "a-1")
    with asking(cluster, {"shapes": 60.0}, one_row) as steady:
        until(lambda: "a-1" in steady.devices("shapes"))
        os.kill(hung, signal.SIGSTOP)
        status = cluster.until(lambda status: status["devices"]["a-1"]["losses"] > lost_before)
        assert status["devices"]["a-1"]["breaker"] == "open"
        assert "should have ended long ago" in status["devices"]["a-1"]["reason"]
        assert metric(cluster, 'proteus_device_breaker{device="a-1",state="closed"}') == 0
        cluster.until(is_back(lost_before + 1, "a-1"))
    assert violations(steady.ended("shapes")) < 0.1  # those that ran there, and whatever the machine is busy with
    assert is_gone(hung)
    assert pid_of(cluster, "a-1") != hung


def test_a_family_whose_devices_are_all_lost_is_refused_and_disturbs_no_other(cluster: LiveServer) -> None:
    lost_before = losses_of(cluster, "b-0")
    with asking(cluster, {"shapes": 60.0, "tones": 50.0}, one_row) as steady:
        until(lambda: steady.devices("tones") == {"b-0"})
        os.kill(pid_of(cluster, "b-0"), signal.SIGKILL)
        cluster.until(lambda status: status["devices"]["b-0"]["breaker"] == "open")
        assert cluster.get("/v2/models/tones/ready").status == 503
        assert cluster.get("/v2/models/shapes/ready").status == 200
        assert cluster.get("/v2/health/live").status == 200
        cluster.until(lambda _: cluster.get("/v2/models/tones/ready").status == 200)
        back_s = time.monotonic()
        assert is_back(lost_before + 1, "b-0")(cluster.status())
        until(lambda: len(steady.ended("tones", back_s)) >= 25)
    refused = [ending for ending in steady.ended("tones") if ending.outcome == "rejected"]
    assert len(refused) > 10
    assert {(ending.status, ending.retry_after) for ending in refused} == {(503, "1")}
    assert violations(steady.ended("tones", back_s)) < 0.1
    assert violations(steady.ended("shapes")) < 0.02
    assert "tones: no device that hosts it is available, its queries are refused" in cluster.log.read_text()


def test_ten_times_the_demand_within_a_second_is_answered_less_accurately(cluster: LiveServer) -> None:
    rate_qps = RATES_QPS["tones"]  # ten times that is twice what the accurate variant carries
    assert hosted(cluster.status(), "tones") == {"tones-good"}
    changes = len(cluster.status()["changes"])
    with asking(cluster, {"tones": rate_qps, "shapes": 30.0}, one_row) as steady:
        until(lambda: len(steady.ended("tones")) >= rate_qps / 2)
        burst_s = time.monotonic()
        steady.at_once("tones", int(2 * 9 * rate_qps), within_s=2.0)
        status = cluster.until(lambda status: hosted(status, "tones") == {"tones-fast"})
        changed_s = time.monotonic()
        until(lambda: len(steady.ended("tones", burst_s)) > 20 * rate_qps)
    assert status["changes"][changes]["reason"].startswith("tones: ")
    burst = steady.ended("tones", burst_s, burst_s + 2.0)
    assert len(burst) > 15 * rate_qps
    assert violations(burst) < 0.5
    assert violations(steady.ended("tones", changed_s + 0.3)) < 0.1
    assert all(1 <= int(ending.retry_after) <= 10 for ending in burst if ending.outcome == "rejected")
    assert violations(steady.ended("shapes")) < 0.1


def test_where_no_file_can_be_opened_a_lost_device_waits_until_one_can(cluster: LiveServer) -> None:
    """And who is connected is served by the others meanwhile."""
    server, lost_before = cluster.process.pid, losses_of(cluster, "a-0")
    device_pid = pid_of(cluster, "a-0")
    with (
        closing(HTTPConnection("127.0.0.1", cluster.port, timeout=ANSWER_WITHIN_S)) as connected,
        asking(cluster, {"shapes": 60.0}, one_row) as steady,
        ExitStack() as crowd,
    ):

        def status() -> Any:
            connected.request("GET", "/v2/proteus/status")
            return msgspec.json.decode(connected.getresponse().read())

        status()
        steady.at_once("shapes", 20, within_s=0.001)  # connections that it can use later
        until(lambda: len(steady.ended("shapes")) >= 50)
        limits = resource.prlimit(server, resource.RLIMIT_NOFILE)
        os.kill(device_pid, signal.SIGKILL)
        until(lambda: status()["devices"]["a-0"]["losses"] > lost_before)  # what it leaves open is for the crowd
        resource.prlimit(server, resource.RLIMIT_NOFILE, (open_files(server), limits[1]))
        crowd.callback(resource.prlimit, server, resource.RLIMIT_NOFILE, limits)
        for _ in range(20):
            crowd.enter_context(socket.create_connection(("127.0.0.1", cluster.port), ANSWER_WITHIN_S))
        short_s, spent_s = time.monotonic(), cpu_s(server)
        until(lambda: "Too many open files" in (status()["devices"]["a-0"]["reason"] or ""))
        time.sleep(0.5)
        waited_s, spent_s = time.monotonic() - short_s, cpu_s(server) - spent_s
        assert status()["devices"]["a-0"]["breaker"] != "closed"
        resource.prlimit(server, resource.RLIMIT_NOFILE, limits)
        until(lambda: is_back(lost_before + 1, "a-0")(status()))
    assert spent_s < 0.5 * waited_s  # it doesn't try all the time
    served = [ending for ending in steady.ended("shapes", short_s) if ending.outcome == "served"]
    assert len(served) > 0.8 * len(steady.ended("shapes", short_s))
    assert "a-1" in steady.devices("shapes", short_s, short_s + waited_s)


def test_a_device_that_takes_four_times_what_it_should_makes_the_plan_adapt(cluster: LiveServer) -> None:
    lost_before = losses_of(cluster, "a-0")
    cluster.until(lambda status: {"shapes-good"} == hosted(status, "shapes"))
    changes = len(cluster.status()["changes"])
    # Both devices carry 200 qps, 125 with a-0 four times slower. Emulated batches sleep, so one of 4 rows, which takes
    # 40 ms, ends when a-0 runs again: after 160 ms. Smaller ones are slowed more.
    with asking(cluster, {"shapes": 140.0}, one_row) as steady:
        until(lambda: len(steady.ended("shapes")) >= 70)
        with slowed_down(pid_of(cluster, "a-0"), runs_s=0.02, stands_s=0.14):
            slow_s = time.monotonic()
            status = cluster.until(lambda status: "shapes-fast" in hosted(status, "shapes"))
            cluster.until(lambda status: status["pace"]["a-0"] > max(1.5, status["pace"]["a-1"]))
        fast_s = time.monotonic()
        until(lambda: len(steady.ended("shapes", fast_s)) >= 70)
    reasons = [change["reason"] for change in status["changes"][changes:]]
    # Of two rules that count what batches take, either may be first: one sees too little room, the other a better plan.
    assert any("× the profiled times (as " in each or each.startswith("the demand of the last") for each in reasons), (
        reasons
    )
    assert status["planned_qps"]["shapes"] > 1.1 * 140.0
    assert losses_of(cluster, "a-0") == lost_before
    assert violations(steady.ended("shapes", slow_s)) < 0.1


# --- the server itself


def test_a_server_that_is_killed_leaves_nothing_and_goes_on_from_its_last_plan(tmp_path: Path) -> None:
    made = make_small_cluster(tmp_path / "ws", times=100)
    options = (*EMULATED, "--replan=period=500ms")
    with serving(made.root, Path("plan"), *options) as live:
        status = live.until(lambda status: len(status["changes"]) > 0 and status["history"]["written"] > 2)
        children = descendants(live.process.pid)
        assert len(children) >= 4  # three devices and the solver
        live.process.send_signal(signal.SIGKILL)
        live.process.wait()
        until(lambda: all(map(is_gone, children)))
    last = next(iter(records(made.history_dir)))
    with serving(made.root, Path("plan"), *EMULATED, "--replan=off") as live:
        status = live.status()
        assert status["plan"]["origin"] == "resumed"
        assert last.plan in status["plan"]["reason"]
        assert status["placements"] == list(msgspec.to_builtins(made.plan(Path(last.plan)).placements))
        with asking(live, RATES_QPS, one_row) as steady:
            until(lambda: steady.devices("shapes") == {"a-0", "a-1"})
        expect_stopped_well(live)


@pytest.fixture(scope="module")
def meddled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, WallClock, Tiny]]:
    """Real models in threads of the server, whose clock and threads the test has in its hands.

    Both devices host the one family. Its SLO is longer than a busy machine stalls: what misses it was lost.
    """
    patient = TinyFamily("shapes", SHAPES.variants, slo="1s")
    made = make_workspace(tmp_path_factory.mktemp("meddled") / "ws", (patient,))
    add_profiles(made)
    plan = add_plan(made, {"cpu0": "shapes-s", "cpu1": "shapes-s"})
    clock = WallClock(made.root)
    environment = clock.environment | {"THREADS_TO_END": str(made.root), "PYTHONPATH": _with_path(MEDDLING)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with serving(made.root, plan, "--replan=period=500ms") as live:
            yield live, clock, made
            assert live.stop() == 0


def _with_path(directory: Path) -> str:
    return os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])


def four(_: int) -> bytes:
    return _FOUR


_FOUR = row()


def test_a_wall_clock_that_jumps_disturbs_nothing(meddled: tuple[LiveServer, WallClock, Tiny]) -> None:
    live, clock, made = meddled
    with asking(live, {"shapes": 40.0}, four) as steady:
        for by_s in (3600, -7200):
            before = live.status()
            clock.jump(by_s)
            status = live.until(has_solved(before["solver"]["solves"] + 2))
            assert abs(status["solver"]["last_unix_s"] - (time.time() + by_s)) < 60, "it has jumped"
            steady.at_once("shapes", 60, within_s=0.05)  # more than can be carried
        clock.jump(0)
        back_s = time.monotonic()
        until(lambda: len(steady.ended("shapes", back_s)) >= 20)
    assert violations(steady.ended("shapes")) < 0.5
    answered = [ending for ending in steady.ended("shapes") if ending.outcome != "rejected"]
    assert violations(answered) < 0.05
    assert all(1 <= int(ending.retry_after) <= 10 for ending in steady.ended("shapes") if ending.outcome == "rejected")
    newest_first = list(records(Workspace(made.root).history_dir))
    assert len(newest_first) > 1
    assert [record.before for record in newest_first[:-1]] == [record.plan for record in newest_first[1:]]
    seconds = [record.effect.seconds for record in newest_first if record.effect is not None]
    assert all(0 < each < 600 for each in seconds)


def test_where_the_thread_of_a_device_ends_the_device_is_lost_and_opened_again(
    meddled: tuple[LiveServer, WallClock, Tiny],
) -> None:
    live, _, made = meddled
    with asking(live, {"shapes": 40.0}, four) as steady:
        until(lambda: steady.ended("shapes"))
        write_text(made.root / str(live.process.pid), "cpu0-run")  # whole, as the server looks for it all the time
        status = live.until(lambda status: status["devices"]["cpu0"]["losses"] == 1)
        live.until(is_back(1, "cpu0"))
        until(lambda: len(steady.ended("shapes")) >= 400)  # those of ten seconds
    assert "cpu0-run has ended" in live.log.read_text()
    assert status["devices"]["cpu1"]["losses"] == 0
    assert violations(steady.ended("shapes")) < 0.02
    assert "failed" not in steady.tally("shapes")
    with ThreadPoolExecutor(8) as pool:  # so many at once that cpu0 is needed, or helps

        def devices() -> set[str]:
            replies = pool.map(lambda _: live.infer("shapes", _FOUR), range(64))
            return {reply.document().get("parameters", {}).get("device", "") for reply in replies}

        until(lambda: "cpu0" in devices())


# --- models and engines, which are real


SMALL = 0.002


@pytest.fixture(scope="module")
def hand_fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, Tiny]]:
    """Plans come by hand. The most accurate variant fails on inputs of ten and more."""
    variants = [TinyVariant("plain", 0.9, hidden=4, first_s=SMALL)]
    variants += [TinyVariant(name, 0.5, hidden=8 + n) for n, name in enumerate(("deleted", "truncated", "replaced"))]
    made = make_workspace(tmp_path_factory.mktemp("by hand") / "ws", (TinyFamily("shapes", variants, slo="3s"),))
    looking_up(made.model("plain"))
    add_profiles(made)
    plan = add_plan(made, {"cpu0": "plain", "cpu1": "plain"})
    with serving(made.root, plan, "--replan=off", *PROCESSES) as live:
        yield live, made
        expect_stopped_well(live)


def test_inputs_that_a_model_fails_on_fail_alone(hand_fed: tuple[LiveServer, Tiny]) -> None:
    live, _ = hand_fed
    with asking(live, {"shapes": 100.0}, lambda number: row(99.0 if number % 5 == 0 else 1.0)) as steady:
        until(lambda: len(steady.ended("shapes")) >= 150)
    tally = steady.tally("shapes")
    assert abs(tally["failed"] - tally["served"] / 4) <= 1
    assert {name: each["losses"] for name, each in live.status()["devices"].items()} == {"cpu0": 0, "cpu1": 0}
    assert broken(live.status()) == {}


def delete(model: Path) -> None:
    model.unlink()


def truncate(model: Path) -> None:
    with model.open("r+b") as file:
        file.truncate(model.stat().st_size // 2)


def replace(model: Path) -> None:
    """By one that is as good, but another; it looks as old as the one that was there."""
    before = model.stat()
    other = model.with_suffix(".new")
    mlp(other, hidden=64, seed=9)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(model)


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("deleted", delete, "deleted.onnx"),
        ("truncated", truncate, "truncated.onnx"),
        ("replaced", replace, "was changed while it was loaded"),
    ],
)
def test_a_model_file_that_changes_during_a_swap_leaves_the_plan_in_force(
    hand_fed: tuple[LiveServer, Tiny], name: str, spoil: Callable[[Path], None], said: str
) -> None:
    live, made = hand_fed
    before, content = live.status(), made.model(name).read_bytes()
    kept = live.log.read_text().count("SIGHUP: kept the plan")
    add_plan(made, {"cpu0": name, "cpu1": name})
    slow = pid_of(live, "cpu0")
    os.kill(slow, signal.SIGSTOP)  # one device has loaded it, the other is about to
    live.process.send_signal(signal.SIGHUP)
    until_said(live, f"loaded {name} on cpu1")
    spoil(made.model(name))
    os.kill(slow, signal.SIGCONT)
    until_said(live, "SIGHUP: kept the plan", kept + 1)
    status = live.status()
    assert status["placements"] == before["placements"]
    assert {(device, variant) for device, variant in broken(status) if variant == name} == {
        ("cpu0", name),
        ("cpu1", name),
    }
    assert said in next(reason for (_, variant), reason in broken(status).items() if variant == name)
    assert metric(live, f'proteus_engine_broken{{device="cpu0",family="shapes",variant="{name}"}}') == 1
    assert live.infer("shapes", row()).document()["parameters"]["variant"] == "plain"

    if name != "replaced":  # which would be another version of the variant from now on
        live.process.send_signal(signal.SIGHUP)  # now it is looked at before it is loaded
        until_said(live, "SIGHUP: kept the catalog")
        until_said(live, "SIGHUP: kept the plan", kept + 2)
        assert live.status()["placements"] == before["placements"]

    made.model(name).write_bytes(content)  # the same, if not at the same time
    live.process.send_signal(signal.SIGHUP)
    live.until(lambda status: {placement["variant"] for placement in status["placements"]} == {name})
    assert live.infer("shapes", row()).document()["parameters"]["variant"] == name
    add_plan(made, {"cpu0": "plain", "cpu1": "plain"})
    live.process.send_signal(signal.SIGHUP)
    live.until(lambda status: {placement["variant"] for placement in status["placements"]} == {"plain"})


@pytest.fixture(scope="module")
def worn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, Tiny]]:
    """The accurate variant reads its weights from a file of their own."""
    variants = (TinyVariant("good", 0.9, hidden=4, first_s=0.005, row_s=0.005), TinyVariant("fast", 0.7, hidden=8))
    made = make_workspace(tmp_path_factory.mktemp("worn") / "ws", (TinyFamily("shapes", variants, slo="500ms"),))
    looking_up_twice(made.model("good"))
    add_profiles(made)
    plan = add_plan(made, {"cpu0": "good", "cpu1": "good"})
    with serving(made.root, plan, *PROCESSES) as live:
        yield live, made
        expect_stopped_well(live)


def cut_off(weights: Path) -> None:
    """Whoever reads them next, is killed by the system (SIGBUS)."""
    os.truncate(weights, 0)


@pytest.mark.parametrize("spoil", [overwrite, cut_off])
def test_an_engine_whose_weights_are_spoilt_under_it_is_planned_around_until_they_are_back(
    worn: tuple[LiveServer, Tiny], spoil: Callable[[Path], None]
) -> None:
    """The file is mapped, so the model fails on everything, or takes its process along, and can't be loaded again."""
    live, made = worn
    weights = weights_of(made.model("good"))
    content = weights.read_bytes()
    live.until(lambda status: all(each["breaker"] == "closed" for each in status["devices"].values()))
    losses = [losses_of(live, name) for name in ("cpu0", "cpu1")]
    with asking(live, {"shapes": 30.0}, four) as steady:
        until(lambda: steady.devices("shapes"))
        spoilt_s = time.monotonic()
        spoil(weights)
        status = live.until(
            lambda status: (
                {placement["variant"] for placement in status["placements"]} == {"fast"}
                and all(each["breaker"] == "closed" for each in status["devices"].values())
            )
        )
        fast_s = time.monotonic()
        until(lambda: len(steady.ended("shapes", fast_s)) >= 30)
        assert broken(status).keys() >= {("cpu0", "good"), ("cpu1", "good")}
        assert {ending.variant for ending in steady.ended("shapes", fast_s)} <= {"fast", ""}
        with weights.open("r+b") as file:
            file.write(content)
        live.until(lambda status: "good" in {placement["variant"] for placement in status["placements"]})
        until(lambda: steady.ended("shapes")[-1].variant == "good")
    assert [losses_of(live, name) for name in ("cpu0", "cpu1")] > losses
    assert {ending.variant for ending in steady.ended("shapes", spoilt_s) if ending.variant} == {"good", "fast"}
