"""Reads the list of a cluster's hosts."""

from pathlib import Path

from proteus_cli.domain.cluster import ClusterHosts
from proteus_cli.input_files import SETTINGS, decode_toml, decoded, read_bytes

_HINT = "docs/cluster.md shows a hosts.toml"


def read_hosts(path: Path) -> ClusterHosts:
    """Read a `hosts.toml` strictly. Raises `ArtefactError`."""
    content = read_bytes(path, SETTINGS, hint=_HINT)
    what = f"`{path}` is no valid list of hosts"
    return decoded(content, lambda content: decode_toml(content, ClusterHosts), what, hint=_HINT)
