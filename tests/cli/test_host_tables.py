"""Tables of clusters: short where hosts are alike, and without a word of hosts where there is one machine."""

import io
from collections.abc import Mapping

import pytest
from builders import make_placement, make_plan
from rich.console import Console, RenderableType

from proteus_cli.cli.cluster import ReachedHost
from proteus_cli.cli.devices import cluster_tables
from proteus_cli.cli.plan_diff import difference, difference_tables
from proteus_cli.cli.plan_tables import plan_table, whereabouts
from proteus_cli.domain.device import Device
from proteus_cli.domain.plan import Plan
from proteus_cli.serving.devices.remote.channel.messages import Inventory

CPU = Device("cpu0", "cpu-2c", "cpu", "a CPU", 2**34, cores=(0, 1))


def shown(found: RenderableType) -> list[list[str]]:
    """The cells of each line; lines of rules are left out."""
    console = Console(file=io.StringIO(), width=140)
    with console.capture() as capture:
        console.print(found)
    lines = [line for line in capture.get().splitlines() if line.strip("─ ")]
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


# --- plans


def plan(*devices: str, idle: str = "") -> Plan:
    placed = [make_placement(device, "f", "v", rate_qps=5.0, capacity_qps=10.0) for device in devices if device != idle]
    return make_plan(*placed, demand_qps={"f": 10.0}, devices=devices)


def test_several_hosts_are_the_last_column_of_a_plan() -> None:
    head, first, second, *_ = shown(plan_table(plan("a/gpu0", "a/gpu1", "b/gpu0", "b/gpu1", "cpu0", idle="cpu0")))
    assert head[-1] == "host"
    assert first[-1] == "2 each on a, b"
    assert second[-1] == "this machine"
    assert second[1:3] == ["–", "idle"]


def test_one_host_has_no_column() -> None:
    assert shown(plan_table(plan("cpu0", "cpu1")))[0][-1] == "batch"
    assert shown(plan_table(plan("a/cpu0", "a/cpu1")))[0][-1] == "batch"


def test_the_difference_of_two_plans_says_on_which_hosts() -> None:
    lines = shown(difference_tables(difference(plan("a/gpu0", "b/gpu0"), plan("a/gpu0", "b/gpu0", idle="b/gpu0"))))
    rows = {cells[0]: cells for cells in lines}
    assert rows["device"][-1] == "host"
    assert rows["a/gpu0"][-1] == "a"
    assert rows["b/gpu0"][-1] == "b"


# --- inventories


def inventory(
    gpus: int, *more: Device, servers: tuple[str, ...] = (), shared: Mapping[str, int] | None = None
) -> ReachedHost:
    found = [Device(f"gpu{at}", "h100", "gpu", "a GPU", 2**36) for at in range(gpus)]
    return ReachedHost(Inventory((*found, *more), {"proteus": "1.0"}, 2**35, servers, shared=shared or {}), 0.0004)


def test_each_device_of_a_few_hosts_has_a_row_below_its_host() -> None:
    hosts = {"a": inventory(1, CPU), "b": inventory(1, servers=("10.0.0.1:8000",))}
    lines = shown(cluster_tables(hosts, lambda name, _: "yes" if name == "a/gpu0" else "no", ["c"]))
    assert lines[1:4] == [
        ["a", "a/gpu0", "h100", "–", "64.0 GiB", "yes", "a GPU"],
        ["a/cpu0", "cpu-2c", "0 1", "16.0 GiB", "no", "a CPU"],
        ["b", "b/gpu0", "h100", "–", "64.0 GiB", "no", "a GPU"],
    ]
    assert lines[5:] == [
        ["a", "serves nobody", "400 µs", "32.0 GiB", "proteus 1.0"],
        ["b", "serves 10.0.0.1:8000", "400 µs", "32.0 GiB", "proteus 1.0"],
        ["c", "can't be used: see below", "–", "–", "–"],
    ]


def test_hosts_that_emulate_devices_have_no_table_of_devices() -> None:
    """Their devices are those of their server."""
    head, host = shown(cluster_tables({"a": inventory(0)}, lambda *_: "no", []))
    assert (head[0], host[0]) == ("host", "a")
    assert "memory free" in head


def test_how_many_servers_share_a_device_is_a_column_where_any_is_shared() -> None:
    hosts = {"a": inventory(2, servers=("10.0.0.1:1", "10.0.0.2:1"), shared={"gpu1": 2}), "b": inventory(1)}
    head, *rows = shown(cluster_tables(hosts, lambda *_: "yes", []))[:4]
    assert head[-2:] == ["servers", "name"]
    assert [cells[-2] for cells in rows] == ["–", "2", "–"]


def test_a_hundred_hosts_are_a_few_rows() -> None:
    hosts = {f"n{at:02}": inventory(8, *([CPU] if at == 3 else [])) for at in range(100)}
    lines = shown(cluster_tables(hosts, lambda *_: "yes", []))
    assert [cells[:2] for cells in lines[1:4]] == [
        ["99 × n00 …", "8 × gpu0 …"],
        ["n03", "8 × gpu0 …"],
        ["cpu0", "cpu-2c"],
    ]
    assert lines[5:] == [["100 × n00 …", "serves nobody", "≤ 400 µs", "≥ 32.0 GiB", "proteus 1.0"]]


# --- hosts in words

A, B = [f"a/gpu{number}" for number in range(8)], [f"b/gpu{number}" for number in range(8)]


@pytest.mark.parametrize(
    ("devices", "text"),
    [
        (A[:1], "a"),
        (A, "a"),
        (["cpu0"], "this machine"),
        ([*A[:2], *B[:2]], "2 each on a, b"),
        ([*A[:3], *B[:1]], "3 on a, 1 on b"),
        ([*A[:3], "cpu0"], "3 on a, 1 on this machine"),
        ([f"n{host}/gpu{gpu}" for host in range(100) for gpu in range(8)], "8 each on 100 hosts"),
        ([*A, *(f"n{host}/gpu0" for host in range(4))], "5 hosts"),
    ],
)
def test_where_devices_are(devices: list[str], text: str) -> None:
    assert whereabouts(devices) == text
