"""The families that the server offers, and whether they take requests now."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from proteus_cli.backends.base import Signature
from proteus_cli.control.controller import Controller
from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT
from proteus_cli.domain.catalog import ImageInput
from proteus_cli.domain.profile import Profile, accuracy_by_variant, estimated_families
from proteus_cli.domain.stages.confidence import MARGIN
from proteus_cli.errors import UnknownModel
from proteus_cli.serving.lifecycle import Lifecycle


@dataclass(slots=True)
class ServedFamily:
    """A family as clients see it: what it takes and gives, and its limits.

    A request has ``max_rows`` at most. ``best_accuracy`` is None where no variant was profiled. ``attainment`` is the
    target that the catalog sets, ``labels`` are its names for the classes of the first output, and ``image`` is the
    family's input, where it has one of its own. ``estimated``: some of its accuracies are estimates. While the family
    is not ``is_loaded``, it takes no requests; nothing else changes, so clients may load and unload it at any time.
    ``variants`` are those that were profiled, with their accuracies, the most accurate first. ``confidence`` as in the
    catalog.
    """

    name: str
    signature: Signature
    slo_s: float
    max_rows: int
    best_accuracy: float | None
    attainment: float = DEFAULT_ATTAINMENT
    labels: Sequence[str] = ()
    image: ImageInput | None = None
    estimated: bool = False
    is_loaded: bool = True
    variants: Mapping[str, float] = field(default_factory=dict)
    confidence: str = MARGIN


class Families:
    """All families, ``by_name``."""

    def __init__(self, served: Iterable[ServedFamily], controller: Controller, lifecycle: Lifecycle) -> None:
        self.by_name = {family.name: family for family in served}
        self._controller, self._lifecycle = controller, lifecycle

    def use(self, profiles: Collection[Profile]) -> None:
        """These are the profiles of all devices now; a device that has joined may have the first of a variant."""
        estimated = estimated_families(profiles)
        for name, accuracies in accuracy_by_variant(profiles).items():
            if name in self.by_name:
                family = self.by_name[name]
                family.variants, family.best_accuracy = accuracies, max(accuracies.values())
                family.estimated = name in estimated

    def require(self, name: str) -> ServedFamily:
        """Raises `UnknownModel`."""
        try:
            return self.by_name[name]
        except KeyError:
            raise UnknownModel(f"no model `{name}`; there are: {', '.join(self.by_name)}") from None

    def attainment_target(self, name: str) -> float:
        """The share of the family's requests that must be in time: as the plan in force says, else the catalog."""
        of_all = self._controller.plan.rules.attainment
        return self.by_name[name].attainment if of_all is None else of_all

    def why_unavailable(self, name: str) -> str | None:
        """Why a family answers no requests now; None where it does."""
        if not self._lifecycle.is_ready:
            return f"the server is {self._lifecycle.state}"
        if not self.by_name[name].is_loaded:
            return "unloaded"
        if self._controller.is_lost(name):
            return "no device that hosts it is there"
        return None if self._controller.hosting(name) else "the plan in force hosts no variant of it"
