"""Prices of devices: of the catalog, or given."""

import msgspec
import pytest
from builders import make_catalog, make_family, make_measured, make_profile

from proteus_cli.domain.base import checked
from proteus_cli.errors import UsageError
from proteus_cli.studies.cost.drafts import parse_prices, priced

CATALOG = msgspec.structs.replace(make_catalog(make_family("a", {"s": 0.8})), price_per_hour={"cpu": 0.02, "gpu0": 0.5})
PROFILES = {
    device: make_profile(device, make_measured("a", "s", 0.8, {1: 0.01}), device_type=kind)
    for device, kind in (("cpu0", "cpu"), ("gpu0", "v100"))
}


def test_prices_are_of_the_catalog_unless_others_are_given() -> None:
    assert priced(CATALOG, PROFILES, {}).price_per_hour == {"cpu": 0.02, "v100": 0.5}
    given = parse_prices("cpu0=0.03/h, v100=0/h")
    assert priced(CATALOG, PROFILES, given).price_per_hour == {"cpu": 0.03, "v100": 0.0}


@pytest.mark.parametrize(
    "text", ["cpu", "cpu=", "cpu=0.03", "cpu=x/h", "cpu=-1/h", "cpu=nan/h", "cpu=inf/h", "cpu=1.1e9/h"]
)
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_prices(text)


def test_names_of_no_device_two_prices_and_none_are_refused() -> None:
    for given, problem in (
        ({"tpu": 1.0}, "`tpu` is no device"),
        ({"cpu": 1.0, "cpu0": 2.0}, "Two prices"),
    ):
        with pytest.raises(UsageError, match=problem):
            priced(CATALOG, PROFILES, given)
    with pytest.raises(UsageError, match="No price per hour is known of `cpu`"):
        priced(make_catalog(*CATALOG.families), PROFILES, {"gpu0": 1.0})


def test_two_prices_of_a_type_in_the_catalog_are_refused_unless_one_is_given() -> None:
    profiles = {
        device: make_profile(device, *PROFILES["cpu0"].variants, device_type="cpu") for device in ("cpu0", "cpu1")
    }
    catalog = msgspec.structs.replace(CATALOG, price_per_hour={"cpu0": 1.0, "cpu1": 9.0})
    with pytest.raises(UsageError, match="two prices for `cpu`"):
        priced(catalog, profiles, {})
    assert priced(catalog, profiles, {"cpu": 2.0}).price_per_hour == {"cpu": 2.0}


@pytest.mark.parametrize("price", [-1.0, float("nan"), 1.1e9])
def test_prices_of_the_catalog_are_bounded_alike(price: float) -> None:
    with pytest.raises(ValueError, match="price_per_hour"):
        checked(msgspec.structs.replace(CATALOG, price_per_hour={"cpu": price}))
    assert msgspec.structs.replace(CATALOG, price_per_hour={"cpu": 1e9}).price_per_hour == parse_prices("cpu=1e9/h")
