"""What a family's plans aim for once all demand is served, and the bounds that each of its answers keeps."""

from typing import Literal

from proteus_cli.domain.base import Value, is_amount, require
from proteus_cli.errors import ProteusError
from proteus_cli.units import parse_duration

Preference = Literal["accuracy", "latency", "energy", "cost"]
"""What answers should have much of, or take little of."""

PREFERENCES: tuple[Preference, ...] = ("accuracy", "latency", "energy", "cost")


class FamilyPolicy(Value, frozen=True):
    """The table ``[family.policy]`` of a catalog. Bounds that are left out are not set.

    ``max_latency`` is what plans count on in place of the SLO, ``max_energy_j`` what an answer takes at most, in
    whatever batch, and ``max_cost_per_million`` what so many queries cost of the time of their devices.
    """

    prefer: Preference = "accuracy"
    max_latency: str | None = None
    max_energy_j: float | None = None
    max_cost_per_million: float | None = None

    def __post_init__(self) -> None:
        latency_s = self.max_latency_s
        require(latency_s is None or latency_s > 0, "max_latency must be above zero")
        for name, bound in (("max_energy_j", self.max_energy_j), ("max_cost_per_million", self.max_cost_per_million)):
            require(bound is None or (is_amount(bound) and bound > 0), f"{name} must be above zero")

    @property
    def max_latency_s(self) -> float | None:
        """``max_latency`` in seconds; None: no limit. Raises `ValueError` where the text is no duration."""
        try:
            return None if self.max_latency is None else parse_duration(self.max_latency)
        except ProteusError as error:  # a bad unit in a file is a broken file
            raise ValueError(f"max_latency: {error.message}") from None


DEFAULT_POLICY = FamilyPolicy()
