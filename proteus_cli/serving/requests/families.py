"""The families that the server offers, and whether they take requests now."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from proteus_cli.backends.base import Signature
from proteus_cli.control.controller import Controller
from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT
from proteus_cli.errors import UnknownModel
from proteus_cli.serving.lifecycle import Lifecycle


@dataclass(slots=True)
class ServedFamily:
    """A family as clients see it: what it takes and gives, and its limits.

    A request has ``max_rows`` at most. ``best_accuracy`` is None where no variant was profiled. ``attainment`` is the
    target that the catalog sets, and ``labels`` are its names for the classes of the first output. While the family is
    not ``is_loaded``, it takes no requests; nothing else changes, so clients may load and unload it at any time.
    """

    name: str
    signature: Signature
    slo_s: float
    max_rows: int
    best_accuracy: float | None
    attainment: float = DEFAULT_ATTAINMENT
    labels: Sequence[str] = ()
    is_loaded: bool = True


class Families:
    """All families, ``by_name``."""

    def __init__(self, served: Iterable[ServedFamily], controller: Controller, lifecycle: Lifecycle) -> None:
        self.by_name = {family.name: family for family in served}
        self._controller, self._lifecycle = controller, lifecycle

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
