"""The families that the server offers, and whether they take requests now."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.control.controller import Controller
from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT
from proteus_cli.domain.catalog import Family, ImageInput, VariantKey
from proteus_cli.domain.catalog_changes import asked_versions, version_in_name, versions_of
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.profile_changes import accuracy_by_variant, estimated_families
from proteus_cli.domain.request import ANY_VERSION, AskedVersion
from proteus_cli.domain.stages.cascade import MARGIN, output_of
from proteus_cli.errors import ArtefactError, UnknownModel
from proteus_cli.serving.lifecycle import Lifecycle

UNLOADED, LEAVING = "unloaded", "being taken out of service"
"""Why a family takes no requests, as clients are told."""


@dataclass(slots=True)
class ServedFamily:
    """A family as clients see it: what it takes and gives, and its limits.

    A request has ``max_rows`` at most. ``best_accuracy`` is None where no variant was profiled. ``attainment`` is the
    target that the catalog sets, ``labels`` are its names for the classes of the first output, and ``image`` is the
    family's input, where it has one of its own. ``estimated``: some of its accuracies are estimates. While there is a
    reason ``why_out``, the family takes no requests; admitted ones are answered.
    ``variants`` that were profiled have their accuracies, the most accurate first. ``confidence`` as in the
    catalog. One request after ``next_look_s`` is looked at (`RequestWatch`).
    ``versions`` has the version of each variant of the catalog, and ``beside`` the versions of variants beside it:
    they are retiring, or being rolled out.
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
    why_out: str = ""
    variants: Mapping[str, float] = field(default_factory=dict)
    confidence: str = MARGIN
    next_look_s: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_loaded(self) -> bool:
        """Whether the family takes requests, where anything hosts it."""
        return not self.why_out

    @property
    def asked_versions(self) -> dict[str, AskedVersion]:
        """The versions that clients may ask for, by name, besides `ANY_VERSION`."""
        return asked_versions({**self.beside, **self.versions})

    def asked_version(self, name: str) -> AskedVersion | None:
        """The version of that name; None: any variant. Raises `UnknownModel`."""
        if name in {"", ANY_VERSION}:
            return None
        known = self.asked_versions
        if name not in known:
            raise UnknownModel(f"`{self.name}` has no version `{name}`; there are: {', '.join([ANY_VERSION, *known])}")
        return known[name]

    def know_beside(self, names: Collection[str], before: "ServedFamily") -> None:
        """Know these variants beside the catalog; what is known of them ``before`` stays."""
        known = {**before.beside, **before.versions}
        self.beside = {name: known.get(name) or version_in_name(name) for name in sorted(names)}


@dataclass(frozen=True, slots=True)
class FamilyFiles:
    """A family of the catalog, and what its files say: what its models take and give, and the names of the classes.

    ``is_stub``: it has no models, and its signature is made up. Raises `ArtefactError` where a family has not as many
    labels as classes, or lacks the output that is to tell its confidence.
    """

    family: Family
    signature: Signature
    labels: Sequence[str] = ()
    is_stub: bool = False

    def __post_init__(self) -> None:
        if self.is_stub:
            return
        if self.labels:
            _require_as_many(self.family.name, self.labels, self.signature.outputs[0])
        confidence_place(self.family.name, output_of(self.family.confidence), self.signature)


def served_families(files: Iterable[FamilyFiles], profiles: Collection[Profile]) -> list[ServedFamily]:
    """A request may have as many rows as the largest batch that a variant of its family was measured with."""
    accuracies, estimated = accuracy_by_variant(profiles), estimated_families(profiles)
    max_rows: dict[str, int] = {}
    for measured in (variant for profile in profiles for variant in profile.variants):
        if measured.points:
            max_rows[measured.family] = max(max_rows.get(measured.family, 1), measured.points[-1].batch)
    return [
        ServedFamily(
            name, each.signature, each.family.slo_s, max_rows.get(name, 1),
            max(accuracies.get(name, {}).values(), default=None), each.family.attainment, each.labels,
            None if each.is_stub else each.family.input,
            estimated=name in estimated, variants=accuracies.get(name, {}),
            confidence=MARGIN if each.is_stub else each.family.confidence,
            versions=versions_of(each.family.variants),
        )
        for each in files
        for name in [each.family.name]
    ]  # fmt: skip


class Families:
    """All families, ``by_name``: one object for good, which all who need it look at.

    `DataPlane.use_families` alone changes which there are.
    """

    def __init__(self, served: Iterable[ServedFamily], controller: Controller, lifecycle: Lifecycle) -> None:
        self.by_name = {family.name: family for family in served}
        self._controller, self._lifecycle = controller, lifecycle
        self._watchers: list[Callable[[], None]] = []

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` whenever other families are offered, or the same ones with other settings."""
        self._watchers.append(changed)

    def offer(self, served: Iterable[ServedFamily]) -> None:
        """From now on these are all families."""
        families = list(served)
        self.by_name.clear()
        self.by_name.update((family.name, family) for family in families)
        self._changed()

    def know_beside(self, keys: Collection[VariantKey]) -> None:
        """Know these variants beside the catalog from now on."""
        before = {name: family.beside for name, family in self.by_name.items()}
        for family in self.by_name.values():
            family.know_beside({key.variant for key in keys if key.family == family.name}, family)
        if before != {name: family.beside for name, family in self.by_name.items()}:
            self._changed()

    def use(self, profiles: Collection[Profile]) -> None:
        """Take the variants and accuracies of the profiles of all devices."""
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

    def _changed(self) -> None:
        for changed in self._watchers:
            changed()

    def attainment_target(self, name: str) -> float:
        """The share of the family's requests that must be in time: as the plan in force says, else the catalog."""
        of_all = self._controller.plan.rules.attainment
        return self.by_name[name].attainment if of_all is None else of_all

    def why_unavailable(self, name: str, version: AskedVersion | None = None) -> str | None:
        """Why a family answers no requests now, or none for a version; None where it does."""
        if not self._lifecycle.is_ready:
            return f"the server is {self._lifecycle.state}"
        if why_out := self.by_name[name].why_out:
            return why_out
        if self._controller.families[name].is_lost:
            return "no device that hosts it is available"
        if not self._hosting(name, version):
            return "the plan in force hosts no variant of it"
        return None

    def _hosting(self, name: str, version: AskedVersion | None) -> bool:
        family = self._controller.families[name]
        return bool(family.hosts) if version is None else any(map(family.serves, version.variants))


def confidence_place(family: str, output: str | None, signature: Signature) -> int | None:
    """The place of the output that tells the confidence; None: the margin of the scores does.

    Raises `ArtefactError` where the family lacks that output.
    """
    names = [spec.name for spec in signature.outputs]
    if output is None:
        return None
    if output not in names:
        raise ArtefactError(
            f'`confidence = "output:{output}"` of family `{family}`: no variant has an output `{output}`.',
            hint=f"they have: {', '.join(names)}; mend `confidence` in engines/catalog.toml",
        )
    return names.index(output)


def _require_as_many(family: str, labels: Sequence[str], scores: TensorSpec) -> None:
    classes = None if None in scores.shape else math.prod(scores.sizes)
    if len(labels) != classes:
        raise ArtefactError(
            f"The catalog has {len(labels)} labels for `{family}`, whose output `{scores.name}` has "
            f"{'any number of' if classes is None else classes} classes.",
            hint="`labels` names a file with as many lines as the first output has values for a row",
        )
