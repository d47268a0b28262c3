"""The columns of profiles as CSV that say how far away the devices of a type are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from proteus_cli.csv_cells import number, positive_number, whole_number
from proteus_cli.domain.base import require
from proteus_cli.domain.cluster import Network

ROUND_TRIP, BYTES_PER_S, ROW_BYTES = NETWORK = ("network_round_trip_ms", "network_bytes_per_s", "network_row_bytes")
"""Of types on hosts of a cluster; an export without any lacks these columns."""


@dataclass(frozen=True, slots=True)
class RowNetwork:
    """What a row of a file says of the network to a type; ``row_bytes`` of its family, None is unknown."""

    round_trip_s: float
    bytes_per_s: float
    row_bytes: int | None = None


def network_in(known: Mapping[str, str]) -> RowNetwork | None:
    """What the cells of a row say that are not empty. Raises `ValueError`."""
    if not any(column in known for column in NETWORK):
        return None
    require(ROUND_TRIP in known and BYTES_PER_S in known, f"a network has {ROUND_TRIP} and {BYTES_PER_S}")
    number(ROUND_TRIP, known[ROUND_TRIP])
    return RowNetwork(
        float(Decimal(known[ROUND_TRIP]).scaleb(-3)),
        positive_number(BYTES_PER_S, known[BYTES_PER_S]),
        whole_number(ROW_BYTES, known[ROW_BYTES]) if ROW_BYTES in known else None,
    )


def network_cells(network: Network | None, family: str) -> dict[str, str]:
    """The cells of a row of a family."""
    if network is None:
        return dict.fromkeys(NETWORK, "")
    row_bytes = network.row_bytes.get(family)
    return {
        ROUND_TRIP: f"{Decimal(repr(network.round_trip_s)).scaleb(3).normalize():f}",
        BYTES_PER_S: repr(network.bytes_per_s),
        ROW_BYTES: "" if row_bytes is None else str(row_bytes),
    }


def network_of(rows: Iterable[tuple[str, RowNetwork | None]]) -> Network | None:
    """The network to a type of which these are all rows, each with its family. Where they differ, the worst counts."""
    known = [(family, found) for family, found in rows if found is not None]
    if not known:
        return None
    row_bytes: dict[str, int] = {}
    for family, found in known:
        if found.row_bytes is not None:
            row_bytes[family] = max(found.row_bytes, row_bytes.get(family, 0))
    round_trip_s = max(found.round_trip_s for _, found in known)
    return Network(round_trip_s, min(found.bytes_per_s for _, found in known), row_bytes)
