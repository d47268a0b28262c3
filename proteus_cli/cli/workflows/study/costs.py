"""What `proteus study cost` was asked for."""

from proteus_cli.cli.command_line.plan_rules import plan_rules
from proteus_cli.cli.options.common import HEADROOM
from proteus_cli.cli.options.groups.study.shared import parse_percentile
from proteus_cli.domain.fleet import parse_fleet
from proteus_cli.errors import UsageError
from proteus_cli.simulation.conditions import JITTERS
from proteus_cli.store import Workspace
from proteus_cli.studies.cost.drafts import CostQuestion, parse_prices


def asked(
    workspace: Workspace,
    price: str | None,
    fleet: str | None,
    *,
    residency: str,
    min_accuracy: str | None,
    allowed_frac: float,
    headroom: float,
    jitter: str,
    seed: int,
) -> CostQuestion:
    """The question of the options of `proteus study cost`. Raises `UsageError`, `ArtefactError`."""
    rules = plan_rules(
        workspace.catalog(), workspace.profiles(), residency=residency, reserve=None, ban=None, pin=None,
        min_accuracy=min_accuracy, min_expected_accuracy=None, max_share=None, prefer=None, survive=0, survive_host=0,
        cascades=False, minimize="cost",
    )  # fmt: skip
    prices = parse_prices(price) if price is not None else {}
    return CostQuestion(prices, rules, max_devices(fleet), allowed_frac, jitter_named(jitter), seed, headroom)


def usually_asked(workspace: Workspace, price: str | None) -> CostQuestion:
    """What `proteus study cost` asks where no other option is given. Raises as `asked` does."""
    return asked(
        workspace, price, None, residency="3", min_accuracy=None, allowed_frac=1 - parse_percentile("p99"),
        headroom=HEADROOM, jitter="p95", seed=0,
    )  # fmt: skip


def max_devices(fleet: str | None) -> dict[str, int]:
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
