"""Policies: which variants may be planned × how batches form × when to re-plan."""

from dataclasses import dataclass
from typing import Literal

from proteus_cli.control.batcher import ProactiveBatcher
from proteus_cli.control.replanning import ReplanRule
from proteus_cli.errors import UsageError

VariantRule = Literal["all", "most-accurate", "least-accurate"]


@dataclass(frozen=True, slots=True)
class Policy:
    """``replanning`` is None where the first plan stays for good."""

    name: str
    variants: VariantRule
    batching: ProactiveBatcher
    replanning: ReplanRule | None


POLICIES = {
    policy.name: policy
    for policy in (
        Policy("proteus", "all", ProactiveBatcher(), ReplanRule()),
        Policy("most-accurate", "most-accurate", ProactiveBatcher(), None),
        Policy("least-accurate", "least-accurate", ProactiveBatcher(), None),
    )
}


def policy_named(name: str) -> Policy:
    """The policy of that name. Raises `UsageError`."""
    try:
        return POLICIES[name]
    except KeyError:
        raise UsageError(f"No policy `{name}`.", hint=f"there are: {', '.join(POLICIES)}") from None
