"""What `proteus study cost` was asked for."""

from proteus_cli.domain.fleet import parse_fleet
from proteus_cli.errors import UsageError
from proteus_cli.simulation.conditions import JITTERS


def most_of(fleet: str | None) -> dict[str, int]:
    """``"cpu-1c:8,v100:2"`` → the most devices of each type. Raises `UsageError`."""
    if fleet is None:
        return {}
    by_host = parse_fleet(fleet)
    if set(by_host) != {""}:
        raise UsageError("Hosts make no difference to what a fleet costs.", hint="write it like `--fleet cpu-1c:8`")
    return dict(by_host[""])


def jitter_named(jitter: str) -> str:
    """A name of `JITTERS`, or empty for ``none``. Raises `UsageError`."""
    if jitter != "none" and jitter not in JITTERS:
        raise UsageError(f"No jitter `{jitter}`.", hint=f"there are: {', '.join(JITTERS)}, none")
    return "" if jitter == "none" else jitter
