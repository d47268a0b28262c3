"""The rules of a plan, from the options of `proteus plan`."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from proteus_cli.errors import UsageError
from proteus_cli.units import parse_assignments

if TYPE_CHECKING:
    from proteus_cli.domain.catalog import Catalog
    from proteus_cli.domain.profile import Profile
    from proteus_cli.domain.rules import DeviceVariant, Reserved, Rules


def plan_rules(
    catalog: "Catalog",
    profiles: "Mapping[str, Profile]",
    *,
    residency: str | None,
    placement: Sequence[str],
    min_accuracy: str | None,
    min_expected_accuracy: str | None,
    max_share: str | None,
    prefer: str | None,
    survive: int,
    survive_host: int,
    cascades: bool | None,
    **fields: object,
) -> "Rules":
    """The rules that the options of `proteus plan` give; ``fields`` need no parsing. Raises `UsageError`.

    Without ``residency``, devices host as many variants as fit, where all sizes are known and no loss is to be
    survived. Without ``cascades``, the cascades of the profiles may be used.
    """
    import msgspec

    from proteus_cli.domain.rules import Rules

    default = default_rules(profiles)
    if residency is None:
        residency = "1" if survive or survive_host else str(default.residency)
    if cascades is None:
        cascades = default.cascades
    fields |= _placement_rules(placement, catalog, profiles)
    fields |= {
        "residency": _residency(residency),
        "min_accuracy": _fractions(min_accuracy, catalog, "--min-accuracy"),
        "max_share": _fractions(max_share, catalog, "--max-share"),
        "survive": max(survive, survive_host),
    }
    if survive_host:  # each device is lost with its host
        fields["survive_unit"] = "host"
    if cascades:
        fields["cascades"] = True
    if min_expected_accuracy is not None:
        fields["min_expected_accuracy"] = _fractions(min_expected_accuracy, catalog, "--min-expected-accuracy")
    if prefer is not None:
        fields["prefer"] = _preferences(prefer, catalog)
    if fields["survive"] and fields["residency"] != 1:
        raise UsageError(
            "The rules are not valid: survive takes one variant per device (residency 1).",
            hint=f"leave out `--residency {residency}`, or `{'--survive-host' if survive_host else '--survive'}`",
        )
    try:
        return msgspec.convert(fields, Rules)
    except msgspec.ValidationError as error:
        raise UsageError(f"The rules are not valid: {error}.", hint="`proteus plan --help` describes them") from None


def default_rules(profiles: "Mapping[str, Profile]") -> "Rules":
    """Devices host as many variants as fit, where all sizes are known; queries may use the cascades of the profiles."""
    from proteus_cli.domain.rules import Rules

    residency: Literal[1, "memory"] = 1 if unknown_memory(profiles) else "memory"
    return Rules(residency=residency, cascades=any(profile.cascades for profile in profiles.values()))


def _preferences(text: str, catalog: "Catalog") -> dict[str, str]:
    """``"latency"`` for all families, or ``"bert=latency,yolo=energy"`` → what each prefers. Raises `UsageError`."""
    from proteus_cli.domain.catalog import PREFERENCES

    given: dict[str, str | None] = dict.fromkeys(catalog.names, text.strip())
    if "=" in text:
        given = {catalog.family(name).name: of for name, of in parse_assignments(text, "`--prefer`").items()}
    for preferred in given.values():
        if preferred not in PREFERENCES:
            hint = f"there are {', '.join(PREFERENCES)}: `--prefer latency`, or by family `--prefer bert=latency`"
            raise UsageError(f"`{preferred or ''}` is nothing that a family can prefer.", hint=hint)
    return {family: preferred or "" for family, preferred in given.items()}


def _fractions(text: str | None, catalog: "Catalog", option: str) -> dict[str, float]:
    """``"0.9"`` for all families, or ``"bert=0.9,yolo=0.8"`` → a fraction by family."""
    if text is None:
        return {}
    if "=" not in text:
        return dict.fromkeys(catalog.names, _fraction(text, option))
    given = parse_assignments(text, f"`{option}`")
    return {catalog.family(name).name: _fraction(value or "", option) for name, value in given.items()}


def _fraction(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        hint = f"give a fraction from 0 to 1, like `{option} 0.9`, or one for each family: `{option} bert=0.9,yolo=0.8`"
        raise UsageError(f"`{text.strip()}` is not a fraction.", hint=hint)
    return value


def _placement_rules(
    texts: Iterable[str], catalog: "Catalog", profiles: "Mapping[str, Profile]"
) -> dict[str, tuple[object, ...]]:
    """``ban DEVICE:VARIANT``, ``pin DEVICE:VARIANT``, ``reserve DEVICE[=FAMILY]`` → fields of `Rules`.

    VARIANT may be FAMILY/VARIANT. A rule may have several items, joined by commas. Raises `UsageError`.
    """
    readers = {"ban": ("banned", _pair), "pin": ("pinned", _pair), "reserve": ("reserved", _reserved)}
    found: dict[str, list[object]] = {field: [] for field, _ in readers.values()}
    for text in texts:
        verb, _, items = text.strip().partition(" ")
        if verb not in readers:
            raise UsageError(
                f"`{text}` is no rule.",
                hint="write `ban gpu0:digits-xl`, `pin gpu0:digits-xl` or `reserve gpu0=digits`",
            )
        field, read = readers[verb]
        for item in items.split(","):
            if not item.strip():
                raise UsageError(f"`{text}` has an empty item.", hint="write a comma only between two items")
            found[field].append(read(item.strip(), catalog, profiles))
    return {field: tuple(rules) for field, rules in found.items()}


def _pair(text: str, catalog: "Catalog", profiles: "Mapping[str, Profile]") -> "DeviceVariant":
    from proteus_cli.domain.rules import DeviceVariant

    device, colon, name = text.partition(":")
    if not colon:
        raise UsageError(f"`{text}` names no variant on a device.", hint="write `gpu0:digits-xl`, or a device type")
    _require_device(device, profiles)
    family, variant = catalog.find(name)
    return DeviceVariant(device, family.name, variant.name)


def _reserved(text: str, catalog: "Catalog", profiles: "Mapping[str, Profile]") -> "Reserved":
    from proteus_cli.domain.rules import Reserved

    device, is_for, family = text.partition("=")
    _require_device(device, profiles)
    return Reserved(device, catalog.family(family).name if is_for else None)


_COUNT = re.compile(r"[1-9][0-9]{0,8}")


def _residency(text: str) -> "int | str":
    """``"2"`` or ``"memory"``. Raises `UsageError`."""
    if text == "memory":
        return text
    if _COUNT.fullmatch(text):
        return int(text)
    raise UsageError(f"`{text}` is not a residency.", hint="give how many variants a device may hold, or `memory`")


def unknown_memory(profiles: "Mapping[str, Profile]") -> tuple[str, ...]:
    """The types of devices with a size that is unknown: of their memory, or of a variant on them."""
    return tuple(
        dict.fromkeys(
            profile.device.type
            for profile in profiles.values()
            if profile.device.memory_bytes == 0 or any(each.memory_bytes == 0 for each in profile.variants)
        )
    )


def unknown_devices(rules: "Rules", profiles: "Mapping[str, Profile]") -> tuple[str, ...]:
    """Devices and types in the rules, and in the rules of the catalog, that the fleet does not have."""
    pairs = (*rules.pinned, *rules.banned)
    named = dict.fromkeys([*(pair.device for pair in pairs), *(each.device for each in rules.reserved)])
    known = {profile.device.type for profile in profiles.values()} | set(profiles)
    return tuple(device for device in named if device not in known)


def unknown_amounts(catalog: "Catalog", profiles: "Mapping[str, Profile]", rules: "Rules") -> Iterator[str]:
    """Families that count an amount which is unknown on a device, and so are not placed there: a line for each type."""
    told: dict[str, None] = {}
    energy, cost = (rules.families_that_count(amount) for amount in ("energy", "cost"))
    for profile in profiles.values():
        device, measured = profile.device, {each.family: each.power_w for each in profile.variants}
        if catalog.price_of(device.id, device.type) is None:
            unpriced = [name for name in measured if name in cost]
            told |= {f"no price of {device.type} is known, so not placed there: {name}": None for name in unpriced}
        unpowered = [name for name, power_w in measured.items() if name in energy and power_w is None]
        told |= {f"no power of {device.type} is known, so not placed there: {name}": None for name in unpowered}
    yield from told


def _require_device(name: str, profiles: "Mapping[str, Profile]") -> None:
    types = dict.fromkeys(profile.device.type for profile in profiles.values())
    if name not in types and name not in profiles:
        few = [*types, *profiles][:20]
        raise UsageError(f"No device and no device type `{name}`.", hint=f"there are: {', '.join(few)}")
