"""What clients are told of bounds that nothing keeps."""

import math
from collections.abc import Iterator

from proteus_cli.control.decision import Unfit
from proteus_cli.domain.request import Bounds
from proteus_cli.serving.requests.query import Query


def unmet(query: Query, bounds: Bounds, unfit: Unfit) -> str:
    """What was asked, and what could be had instead."""
    asked = " and ".join(_asked(query, bounds))
    variants = [_described(name, accuracy, unfit, bounds) for name, accuracy in unfit.available.items()]
    cascades = [f"{name} ({accuracy:.4g})" for name, accuracy in unfit.expected.items()]
    available = ", ".join(variants + (cascades if bounds.min_expected_accuracy else []))
    return f"nothing of `{query.family}` that is planned has {asked}; available: {available or 'none'}"


def _asked(query: Query, bounds: Bounds) -> Iterator[str]:
    if bounds.version is not None:
        yield str(bounds.version)
    if query.options.min_accuracy:
        yield f"an accuracy of {query.options.min_accuracy:g} or more"
    if bounds.min_expected_accuracy:
        yield f"an expected accuracy of {bounds.min_expected_accuracy:g} or more"
    if bounds.is_energy_limited:
        yield f"an energy of {bounds.max_energy_j:g} J or less"


def _described(variant: str, accuracy: float, unfit: Unfit, bounds: Bounds) -> str:
    if not bounds.is_energy_limited:
        return f"{variant} ({accuracy:.4g})"
    energy_j = unfit.energy_j.get(variant, math.nan)
    energy = "of unknown power" if math.isnan(energy_j) else f"{energy_j:.3g} J"
    return f"{variant} ({accuracy:.4g}, {energy})"
