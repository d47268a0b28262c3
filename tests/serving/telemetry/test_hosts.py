"""The hosts of a cluster in status, history, metrics and events; without a cluster there are none."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import pytest
from jsonschema_rs import validator_for
from looping import loop_around
from one_device import World, run
from openapi_file import openapi

from proteus_cli.control.devices.breaker import BreakerEvent
from proteus_cli.serving.devices.remote.links.link import LinkState
from proteus_cli.serving.telemetry.metrics import LoopLag, Metrics, written
from proteus_cli.serving.telemetry.state import HostState
from proteus_cli.serving.telemetry.telemetry import Sources, Telemetry
from proteus_cli.serving.transport.connections import Connections

SILENT = "nothing came from it for 500 ms"
UP = LinkState("10.0.0.2:7000", True, 2.0, "", 1, 0.0004, 1000, 2000)
DOWN = LinkState("10.0.0.2:7000", False, 9.0, SILENT, 2, None, 1000, 2000)


class Seen:
    """A server whose only device is on host `b`, at 10 s; ``links`` may change."""

    def __init__(self, world: World, device: str) -> None:
        self.world, self.links = world, dict[str, LinkState]()
        self.now_s = 10.0
        plane = world.plane
        self.sources = Sources(plane, loop_around(plane), links=lambda: self.links)
        self.telemetry = Telemetry(self.sources, lambda: self.now_s)

    def lose(self, host_loss: str = "") -> None:
        """What the fleet notes as it loses the device, with its host or alone."""
        if host_loss:
            self.world.fleet.lost_with_host["b/cpu0"] = host_loss
        self.world.fleet.breakers["b/cpu0"].on(BreakerEvent.DIED, self.now_s, "it is lost")

    def metrics(self, *names: str) -> list[str]:
        """The lines of these; by default of hosts, and where devices are."""
        metrics = Metrics(self.sources, Connections(max_connections=9, max_body_bytes=9), LoopLag())
        text = written(metrics.descriptions()).decode()
        names = names or ("proteus_host", "proteus_device_info")
        return [line for line in text.splitlines() if line.startswith(names)]


def seen(test: Callable[[Seen], None], device: str = "b/cpu0") -> None:
    async def in_world(world: World) -> None:
        test(Seen(world, device))

    checked: Callable[[World], Awaitable[None]] = in_world
    run(checked, device=device)


def test_without_a_cluster_there_are_no_hosts() -> None:
    def test(server: Seen) -> None:
        server.telemetry.sample()
        assert server.telemetry.history().hosts == server.telemetry.status().hosts == {}
        assert server.metrics() == ['proteus_device_info{device="cpu0",host="",type="cpu"} 1.0']
        assert server.metrics("proteus_device_servers", "proteus_device_turn") == []

    seen(test, "cpu0")


def test_an_emulated_host_is_lost_with_its_last_device() -> None:
    def test(server: Seen) -> None:
        server.telemetry.sample()
        up = server.telemetry.state().hosts["b"]
        assert (up.state, up.devices, up.address, up.round_trip_s) == (HostState.CONNECTED, 1, None, None)
        server.lose()
        server.telemetry.sample()
        down = server.telemetry.state().hosts["b"]
        assert (down.state, down.working, down.reason) == (HostState.LOST, 0, "it is lost")
        assert server.metrics() == [
            'proteus_device_info{device="b/cpu0",host="b",type="cpu"} 1.0',
            'proteus_host_up{host="b"} 0.0',
            'proteus_host_listed{host="b"} 1.0',
        ]

    seen(test)


@pytest.mark.parametrize(
    ("link", "up", "trip"), [(UP, 1, ['proteus_host_round_trip_seconds{host="b"} 0.0004']), (DOWN, 0, [])]
)
def test_a_host_is_as_its_link_says(link: LinkState, up: int, trip: list[str]) -> None:
    def test(server: Seen) -> None:
        server.links["b"] = link
        server.telemetry.sample()
        host = server.telemetry.state().hosts["b"]
        assert host.state is (HostState.CONNECTED if up else HostState.LOST)
        assert (host.state_s, host.reason) == (10.0 - link.since_s, link.why)
        assert (host.losses, host.bytes_sent, host.bytes_received) == (link.losses, 1000, 2000)
        assert server.metrics()[1:] == [
            f'proteus_host_up{{host="b"}} {up}.0',
            'proteus_host_listed{host="b"} 1.0',
            f'proteus_host_losses_total{{host="b"}} {link.losses}.0',
            *trip,
            'proteus_host_sent_bytes_total{host="b"} 1000.0',
            'proteus_host_received_bytes_total{host="b"} 2000.0',
        ]

    seen(test)


def test_status_history_and_metrics_say_how_many_servers_share_a_device_and_its_host() -> None:
    def test(server: Seen) -> None:
        server.links["b"] = UP
        server.world.fleet.workers["b/cpu0"].waited_s = 1.5
        for servers in (3, 1):
            server.world.fleet.share("b/cpu0", servers)
            server.telemetry.sample()
            assert server.metrics("proteus_device_servers", "proteus_device_turn") == [
                f'proteus_device_servers{{device="b/cpu0"}} {servers}.0',
                'proteus_device_turn_wait_seconds_total{device="b/cpu0"} 1.5',
            ]
            for found in (server.telemetry.status(), server.telemetry.history()):
                assert (found.devices["b/cpu0"].servers, found.hosts["b"].servers) == (servers, servers)

    seen(test)


def test_a_host_that_no_device_is_planned_on_is_shown_too() -> None:
    def test(server: Seen) -> None:
        server.links |= {"b": UP, "c": DOWN}
        found = server.telemetry.status()
        assert {name: (host.devices, host.working) for name, host in found.hosts.items()} == {"b": (1, 1), "c": (0, 0)}
        assert found.devices["b/cpu0"].host == "b"

    seen(test)


def test_a_host_that_is_not_listed_any_more_is_lost_for_that_reason() -> None:
    def test(server: Seen) -> None:
        server.links["c"] = UP
        server.lose(SILENT)
        found = server.telemetry.status().hosts["b"]
        assert (found.state, found.reason, found.losses) == (HostState.LOST, "it is not listed any more", None)
        assert not found.listed
        assert 'proteus_host_listed{host="b"} 0.0' in server.metrics()

    seen(test)


def test_what_is_sent_of_hosts_is_what_the_openapi_document_says() -> None:
    def test(server: Seen) -> None:
        server.links |= {"b": UP, "c": DOWN}
        server.telemetry.sample()
        sent: Mapping[str, Any] = {"History": server.telemetry.history(), "ServerStatus": server.telemetry.status()}
        for name, content in sent.items():
            schemas = {**openapi(), "$ref": f"#/components/schemas/{name}"}
            assert list(validator_for(schemas).iter_errors(json.loads(msgspec.json.encode(content)))) == []

    seen(test)


def test_the_loss_of_a_host_and_its_return_are_an_event_each() -> None:
    def test(server: Seen) -> None:
        breaker = server.world.fleet.breakers["b/cpu0"]
        server.lose(SILENT)
        server.telemetry.sample()
        server.now_s = 12.0
        breaker.on(BreakerEvent.RETRIED, server.now_s)
        server.telemetry.sample()
        server.now_s = 14.0
        breaker.on(BreakerEvent.PASSED, server.now_s)
        server.telemetry.sample()
        assert [(event.text, event.reason) for event in server.telemetry.state().events] == [
            ("b/cpu0 was lost", "it is lost"),
            ("b/cpu0 is back", "after 4.0 s"),
        ]

    seen(test)
