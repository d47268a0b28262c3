"""Variants that the catalog has no more: known until no device has them, and no plan may bring them back."""

import logging
from collections.abc import Mapping

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.catalog_changes import CatalogContent, Succession
from proteus_cli.domain.profile_changes import without_variants
from proteus_cli.serving.adaptation.feedback.live_accuracies import LiveAccuracies
from proteus_cli.serving.adaptation.profile_store import ProfileStore
from proteus_cli.serving.logs import fields
from proteus_cli.serving.requests.data_plane import DataPlane

log = logging.getLogger("proteus.catalog")

FORGET_AFTER_S = 10.0
"""Retiring variants are there for so long: a plan that was being made may have them yet."""


class Retiring:
    """The retiring ``variants``, with the digests of their models, and those that are ``held`` beside the catalog.

    Those that are ``kept`` stay loaded where there is memory, and are not forgotten.
    """

    def __init__(self, plane: DataPlane, profiles: ProfileStore, accuracies: LiveAccuracies) -> None:
        self._plane, self._profiles, self._accuracies = plane, profiles, accuracies
        self.variants: dict[VariantKey, str] = {}
        self.held: dict[VariantKey, str] = {}
        self.kept = frozenset[VariantKey]()
        self._since_s = 0.0

    @property
    def by_family(self) -> Mapping[str, list[str]]:
        """The names of variants that are retiring."""
        found: dict[str, list[str]] = {}
        for key in self.variants:
            found.setdefault(key.family, []).append(key.variant)
        return found

    @property
    def with_held(self) -> Mapping[VariantKey, str]:
        """All variants that are there beside the catalog."""
        return self.variants | self.held

    @property
    def is_due(self) -> bool:
        """Whether another catalog was served so long ago that variants may be forgotten."""
        return self._plane.clock() >= self._since_s + FORGET_AFTER_S

    def use(self, before: CatalogContent, following: Succession) -> None:
        """Another catalog is served: what it has not retires, and what it has does not any more."""
        self.variants |= {key: before.digest(key) or "" for key in following.retired}
        for key in following.content.variants:
            self.variants.pop(key, None)
            self.held.pop(key, None)
        self._since_s = self._plane.clock()

    def hold(self, key: VariantKey, digest: str) -> None:
        """A variant is there beside the catalog, until it is released."""
        self.variants.pop(key, None)
        self.held[key] = digest

    def release(self, key: VariantKey) -> None:
        """A variant that was held retires."""
        if key in self.held:
            self.variants[key] = self.held.pop(key)
            self._since_s = self._plane.clock()

    def forget(self) -> bool:
        """Forget those that no device has any more; whether there were any."""
        fleet, controller = self._plane.fleet, self._plane.controller
        there = {placement.key for placement in controller.placements}
        for device in fleet.workers:
            there |= fleet.loader.loaded(device) | controller.change.resident_on(device)
        gone = self.variants.keys() - there - self.kept
        if not gone:
            return False
        for key in gone:
            del self.variants[key]
        fleet.loader.forget_models(gone)
        fleet.broken_engines.forget(gone)
        self._plane.controller.topology.forget_variants(gone)
        self._accuracies.forget(gone)
        self._profiles.use([without_variants(profile, gone) for profile in self._profiles.alone.values()])
        self._plane.families.know_beside(self.with_held)
        names = ", ".join(sorted(key.variant for key in gone))
        log.info("%s served for the last: forgotten", names, extra=fields(variants=names))
        return True
