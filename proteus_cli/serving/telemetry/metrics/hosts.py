"""Metrics of devices and hosts: which device is on which host, how hosts are reached, and who shares their devices."""

from collections.abc import Callable, Iterable, Mapping

from proteus_cli.domain.device import Device, host_of
from proteus_cli.serving.telemetry.hosts import HostState, HostStatus
from proteus_cli.serving.telemetry.metrics.exposition import Exposition, MetricDescription, MetricKind

DEVICE_INFO = MetricDescription(
    "proteus_device_info", MetricKind.GAUGE, "The host of a device, empty for this machine, and its type.",
    ("device", "host", "type"),
)  # fmt: skip


SERVERS = MetricDescription(
    "proteus_device_servers", MetricKind.GAUGE, "Servers that share the device, this one included.", ("device",)
)
TURNS = MetricDescription(
    "proteus_device_turn_wait_seconds_total", MetricKind.COUNTER,
    "What batches waited until those of other servers had ended.", ("device",),
)  # fmt: skip


def _metric(name: str, kind: MetricKind, text: str) -> MetricDescription:
    return MetricDescription(name, kind, text, ("host",))


_OF_HOSTS: tuple[tuple[MetricDescription, Callable[[HostStatus], float | None]], ...] = (
    (
        _metric("proteus_host_up", MetricKind.GAUGE, "1 while the host is connected."),
        lambda host: int(host.state is HostState.CONNECTED),
    ),
    (
        _metric("proteus_host_listed", MetricKind.GAUGE, "1 while the list of hosts has it; else it was taken out."),
        lambda host: int(host.listed),
    ),
    (
        _metric("proteus_host_losses_total", MetricKind.COUNTER, "How often the host was lost."),
        lambda host: host.losses,
    ),
    (
        _metric("proteus_host_round_trip_seconds", MetricKind.GAUGE, "To the host's agent and back, at best lately."),
        lambda host: host.round_trip_s,
    ),
    (
        _metric("proteus_host_sent_bytes_total", MetricKind.COUNTER, "Bytes sent to the host's agent, before TLS."),
        lambda host: host.bytes_sent,
    ),
    (
        _metric("proteus_host_received_bytes_total", MetricKind.COUNTER, "Bytes received from it, after TLS."),
        lambda host: host.bytes_received,
    ),
)


def add_devices(exposition: Exposition, devices: Iterable[Device]) -> None:
    """Which device is where; joins other metrics by `device`, whose labels stay as they are."""
    exposition.add(DEVICE_INFO, [((device.id, device.host, device.type), 1) for device in devices])


def add_sharing(exposition: Exposition, sharing: Mapping[str, tuple[int, float]]) -> None:
    """By device, the servers that share it and the seconds that batches waited for their turns.

    Only devices of a cluster's hosts count; nothing without one.
    """
    of_hosts = {device: shared for device, shared in sharing.items() if host_of(device)}
    if of_hosts:
        exposition.add(SERVERS, [((device,), servers) for device, (servers, _) in of_hosts.items()])
        exposition.add(TURNS, [((device,), waited_s) for device, (_, waited_s) in of_hosts.items()])


def add_hosts(exposition: Exposition, hosts: Mapping[str, HostStatus]) -> None:
    """The hosts of a cluster; nothing without one."""
    for metric, value in _OF_HOSTS:
        samples = [((name,), number) for name, host in hosts.items() if (number := value(host)) is not None]
        if samples:
            exposition.add(metric, samples)
