"""Alike workers for one family of eight variants, the most accurate of which is slower than its SLO."""

from benchmarks.planner_instances import NOBODY, Fleet
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import Catalog, Family, Variant
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import BackendInfo, Point, Profile, VariantProfile

KIND, FAMILY, SLO = "worker", "images", "150ms"
BATCHES = (1, 2, 4, 8, 16)
FIXED_PART = 0.45  # of a batch of 1, whatever the batch; the rest is once for each row
P95_OVER_MEAN = 1.09
BATCH_OF_1_S = (0.022, 0.028, 0.036, 0.047, 0.062, 0.085, 0.115, 0.160)
ACCURACIES = (0.66, 0.81, 0.87, 0.91, 0.94, 0.965, 0.985, 1.0)


def alike(count: int) -> Fleet:
    """So many workers, on which the fastest variant does 63 queries/s by its p95 in half the SLO."""
    variants = tuple(Variant(name=f"v{place}", accuracy=accuracy) for place, accuracy in enumerate(ACCURACIES))
    measured = tuple(_measured(*each) for each in zip(variants, BATCH_OF_1_S, strict=True))
    device = Device(id=KIND, type=KIND, kind="cpu", name=KIND, memory_bytes=0)
    profile = Profile(FORMAT, NOBODY, device, KIND, BackendInfo(name="imported", versions={}), measured)
    family = Family(name=FAMILY, slo=SLO, variants=variants)
    return Fleet(Catalog(format=FORMAT, families=(family,)), {KIND: profile}, {KIND: count})


def _measured(variant: Variant, batch_of_1_s: float) -> VariantProfile:
    return VariantProfile(
        family=FAMILY,
        variant=variant.name,
        accuracy=variant.accuracy,
        model_digest=None,
        engine_digest="",
        eval_digest=None,
        build_s=0.0,
        load_s=0.0,
        memory_bytes=0,
        points=tuple(_point(batch, batch_of_1_s * (FIXED_PART + (1 - FIXED_PART) * batch)) for batch in BATCHES),
    )


def _point(batch: int, mean_s: float) -> Point:
    p95_s = P95_OVER_MEAN * mean_s
    return Point(batch, 1, mean_s, mean_s, p95_s, p95_s, p95_s, qps=batch / mean_s)
