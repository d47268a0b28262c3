"""Prices of devices: of the catalog, and of the command line."""

from collections.abc import Mapping

import msgspec

from proteus_cli.domain.base import LARGEST_PRICE
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import UsageError
from proteus_cli.units import parse_assignments

PER_HOUR = "/h"
_HINT = "write `--price cpu-1c=0.03/h,gpu0=0.35/h`, in any one currency, with a billion at most"


def parse_prices(text: str) -> dict[str, float]:
    """``"cpu-1c=0.03/h,gpu0=0.35/h"`` → prices per hour by device type or id. Raises `UsageError`."""
    return {name: _price(name, value or "") for name, value in parse_assignments(text, "`--price`").items()}


def _price(name: str, text: str) -> float:
    try:
        price = float(text.removesuffix(PER_HOUR)) if text.endswith(PER_HOUR) else -1.0
    except ValueError:
        price = -1.0
    if not 0 <= price <= LARGEST_PRICE:
        raise UsageError(f"`{text}` of `{name}` is no price per hour.", hint=_HINT)
    return price


def priced(catalog: Catalog, profiles: Mapping[str, Profile], given: Mapping[str, float]) -> Catalog:
    """The catalog with a price for each type of devices; those that are given replace its own.

    The price of a device by its id is that of its type. Raises `UsageError` where a name is of no device, two prices of
    a type differ, or a type has none.
    """
    types = {profile.device.type for profile in profiles.values()}
    by_type: dict[str, float] = {}
    for name, price in given.items():
        kind = profiles[name].device.type if name in profiles else name
        if kind not in types:
            known = ", ".join((*types, *profiles))
            raise UsageError(f"`{name}` is no device, nor a type of any.", hint=f"there are profiles of: {known}")
        if by_type.setdefault(kind, price) != price:
            raise UsageError(f"Two prices are given for `{kind}`.", hint="devices of a type cost the same")
    given_types = set(by_type)
    for device, profile in profiles.items():
        kind = profile.device.type
        known_price = catalog.price_of(device, kind)
        if known_price is not None and kind not in given_types and by_type.setdefault(kind, known_price) != known_price:
            raise UsageError(
                f"The catalog has two prices for `{kind}`.",
                hint=f"devices of a type cost the same here: give one, as in `--price {kind}={known_price:g}/h`",
            )
    if missing := sorted(types - by_type.keys()):
        raise UsageError(
            f"No price per hour is known of `{missing[0]}`.",
            hint=f"give it, as in `--price {missing[0]}=0.03/h`, or in the table [price_per_hour] of the catalog",
        )
    return msgspec.structs.replace(catalog, price_per_hour=by_type)
