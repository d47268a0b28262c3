"""Metrics of devices and hosts: which device is on which host, how hosts are reached, and who shares their devices."""

from collections.abc import Callable, Iterable, Mapping

from proteus_cli.domain.device import Device, host_of
from proteus_cli.serving.telemetry.hosts import HostState, HostStatus
from proteus_cli.serving.telemetry.metrics.exposition import Exposition, MetricDescription, counter, gauge

DEVICE_INFO = gauge(
    "proteus_device_info", "The host of a device, empty for this machine, and its type.", "device", "host", "type"
)


SERVERS = gauge("proteus_device_servers", "Servers that share the device, this one included.", "device")
TURNS = counter(
    "proteus_device_turn_wait_seconds_total", "What batches waited until those of other servers had ended.", "device"
)


_OF_HOSTS: tuple[tuple[MetricDescription, Callable[[HostStatus], float | None]], ...] = (
    (
        gauge("proteus_host_up", "1 while the host is connected.", "host"),
        lambda host: int(host.state is HostState.CONNECTED),
    ),
    (
        gauge("proteus_host_listed", "1 while the list of hosts has it; else it was taken out.", "host"),
        lambda host: int(host.listed),
    ),
    (
        counter("proteus_host_losses_total", "How often the host was lost.", "host"),
        lambda host: host.losses,
    ),
    (
        gauge("proteus_host_round_trip_seconds", "To the host's agent and back, at best lately.", "host"),
        lambda host: host.round_trip_s,
    ),
    (
        counter("proteus_host_sent_bytes_total", "Bytes sent to the host's agent, before TLS.", "host"),
        lambda host: host.bytes_sent,
    ),
    (
        counter("proteus_host_received_bytes_total", "Bytes received from it, after TLS.", "host"),
        lambda host: host.bytes_received,
    ),
)


def add_devices(exposition: Exposition, devices: Iterable[Device]) -> None:
    """Which device is where; joins other metrics by `device`, whose labels stay as they are."""
    exposition.add(DEVICE_INFO, [((device.id, device.host, device.type), 1) for device in devices])


def add_sharing(exposition: Exposition, sharing: Mapping[str, tuple[int, float]]) -> None:
    """Add the servers that share each device, and the seconds that batches waited for their turns.

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
