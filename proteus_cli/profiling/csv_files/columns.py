"""The columns of profiles as CSV, and what a row of them says."""

from dataclasses import dataclass
from typing import Literal

from proteus_cli.domain.profile import Point
from proteus_cli.profiling.csv_files.network import NETWORK, RowNetwork

NEEDED = ("device_type", "family", "variant", "accuracy", "batch", "latency_ms")
PERCENTILES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms")
USUAL = (*PERCENTILES, "load_s", "memory_bytes", "power_w", "device_memory_bytes")
SLOTS = ("slots", "slot_bytes", "device_slots")
"""Of devices that have several batches at once; an export without any lacks these columns."""
NOISE = ("noise_frac",)
"""Of cells that are marked as noisy; an export without any lacks this column."""
DIGEST = ("model_digest",)
"""Of variants that were measured; an export without any lacks this column."""
KIND = ("device_kind",)
"""Of types whose name does not say it; an export without any lacks this column."""
OPTIONAL = (*USUAL, *SLOTS, *NOISE, *DIGEST, *KIND, *NETWORK)
HINT = "docs/formats.md describes profile files; `proteus profile --to-csv` writes one"

DeviceKind = Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One batch size of one variant on one type of device, with so many at once; None is unknown.

    ``point`` counts as one run; a percentile that isn't given is the mean. ``device_slots``: with how many slots
    devices of the type are served. ``device_kind``: None where it goes by the name of the type.
    """

    device_type: str
    family: str
    variant: str
    accuracy: float
    point: Point
    load_s: float | None = None
    memory_bytes: int | None = None
    power_w: float | None = None
    device_memory_bytes: int | None = None
    slot_bytes: int | None = None
    device_slots: int = 1
    model_digest: str | None = None
    device_kind: DeviceKind | None = None
    network: RowNetwork | None = None


def kind_by_name(device_type: str) -> DeviceKind:
    """The kind of a type of which no row says it."""
    return "cpu" if device_type.lower().startswith("cpu") else "gpu"
