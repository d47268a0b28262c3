"""What both the live code and the simulator are given: two families of three variants, and their arrivals."""

from collections.abc import Sequence

import numpy as np

from proteus_cli.domain.base import FORMAT, MadeBy
from proteus_cli.domain.catalog import Catalog, Family, Variant
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import BackendInfo, Point, Profile, VariantProfile
from proteus_cli.domain.trace import Trace
from proteus_cli.replay.synthesis import Burst, Poisson, make_trace

SLO_S = 0.2
LOAD_S = 0.03
VARIANTS = {"small": (0.8, 0.0008, 0.0002), "medium": (0.9, 0.004, 0.002), "large": (0.99, 0.012, 0.008)}


def _points(base_s: float, row_s: float) -> tuple[Point, ...]:
    points = []
    for batch in (1, 2, 4, 8, 16, 32):
        mean_s = base_s + row_s * batch
        points.append(Point(batch, 50, mean_s, mean_s, mean_s * 1.05, mean_s * 1.1, mean_s * 1.2, batch / mean_s))
        if mean_s > SLO_S:
            break
    return tuple(points)


def make_world(devices: Sequence[str]) -> tuple[Catalog, dict[str, Profile]]:
    families = tuple(
        Family(
            name,
            f"{SLO_S}s",
            tuple(Variant(f"{name}-{size}", VARIANTS[size][0], f"{name}-{size}.onnx") for size in VARIANTS),
        )
        for name in ("a", "b")
    )
    measured = tuple(
        VariantProfile(name, f"{name}-{size}", accuracy, "m", "e", None, 0.0, LOAD_S, 1000, _points(base_s, row_s))
        for name in ("a", "b")
        for size, (accuracy, base_s, row_s) in VARIANTS.items()
    )
    made_by = MadeBy("0", "host", "2026-01-01T00:00:00+00:00")
    profiles = {
        device: Profile(
            FORMAT,
            made_by,
            Device(device, "cpu-1c", "cpu", "cpu", 10**9, (n,)),
            "cpu0",
            BackendInfo("b", {}),
            measured,
        )
        for n, device in enumerate(devices)
    }
    return Catalog(FORMAT, families), profiles


def arrivals(kind: str) -> Trace:
    """Poisson arrivals for as long as failures take, or a burst that changes the plan and lets it change back."""
    rng = np.random.default_rng(7)
    shares = {"a": 0.6, "b": 0.4}
    if kind == "poisson":
        return make_trace(kind, Poisson(), rate_qps=100, duration_s=15, shares=shares, rng=rng)
    shape = Burst(peak_qps=750, start_s=5.0, stop_s=8.0, ramp_s=0.5)
    return make_trace(kind, shape, rate_qps=100, duration_s=17, shares=shares, rng=rng)
