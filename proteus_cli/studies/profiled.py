"""What a profile has of the variants that a study is about."""

from collections.abc import Collection

from msgspec.structs import replace

from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.profile.profile import Profile


def of_variants(profile: Profile, keys: Collection[VariantKey]) -> Profile:
    """The profile with these variants only."""
    return replace(profile, variants=tuple(each for each in profile.variants if each.key in keys))
