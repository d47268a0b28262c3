"""The list of a cluster's hosts (`hosts.toml`)."""

from pathlib import Path

from proteus_cli.domain.base import Value, require
from proteus_cli.domain.catalog import is_name
from proteus_cli.domain.cluster import MAX_HOSTS
from proteus_cli.input_files import SETTINGS, decode_toml, decoded, read_bytes

_HINT = "docs/cluster.md shows a hosts.toml"


_LARGEST_PORT = 65_535


def split_address(text: str) -> tuple[str, int]:
    """``"10.0.0.2:7000"`` or ``"[::1]:7000"`` → the host and the port. Raises `ValueError`."""
    host, separator, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_port = port.isascii() and port.isdigit() and len(port) <= len(str(_LARGEST_PORT)) and int(port) <= _LARGEST_PORT
    is_host = _is_resolvable(bare) and (":" not in bare or bare != host)
    require(bool(separator) and is_port and is_host, f"`{text}` is no address with a port, like `10.0.0.2:7000`")
    return bare, int(port)


def _is_resolvable(host: str) -> bool:
    """Whether a resolver may be asked for it: each label of a name has from 1 to 63 bytes."""
    try:
        return bool(host.encode("idna")) and host.isprintable()
    except UnicodeError:
        return False


class ClusterHost(Value, frozen=True):
    """A machine with an agent, which listens at ``address``."""

    address: str

    def __post_init__(self) -> None:
        require(split_address(self.address)[1] > 0, f"`{self.address}` has no port")


class ClusterHosts(Value, frozen=True):
    """The hosts of a cluster by name; ids of their devices begin with it, like ``a/cpu0``.

    ``key`` is the path of the cluster's key, relative to the file; None: all agents are on this machine.
    """

    hosts: dict[str, ClusterHost]
    key: str | None = None

    def __post_init__(self) -> None:
        require(0 < len(self.hosts) <= MAX_HOSTS, f"a cluster has 1 to {MAX_HOSTS:,} hosts")
        for name in self.hosts:
            require(is_name(name), f"`{name}` is no name of a host: use letters, digits, `.`, `_`, `-`")
        addresses: dict[str, str] = {}
        for name, host in self.hosts.items():
            first = addresses.setdefault(host.address, name)
            require(first == name, f"`{first}` and `{name}` have the same address")


def read_hosts(path: Path) -> ClusterHosts:
    """Read a `hosts.toml` strictly. Raises `ArtefactError`."""
    content = read_bytes(path, SETTINGS, hint=_HINT)
    what = f"`{path}` is no valid list of hosts"
    return decoded(content, lambda content: decode_toml(content, ClusterHosts), what, hint=_HINT)
