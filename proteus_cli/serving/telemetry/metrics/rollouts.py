"""Metrics of versions that are rolled out."""

from collections.abc import Mapping

from proteus_cli.domain.rollouts.status import Ending, RolloutStatus
from proteus_cli.serving.telemetry.metrics.exposition import Exposition, counter, gauge

SHARE = gauge(
    "proteus_rollout_share_ratio",
    "The share of the queries of a family that a version answers which is being rolled out; 0: there is none.",
    "family",
)
ENDED = counter("proteus_rollouts_total", "Version roll-outs that have ended, by how they did.", "ending")


def add_rollouts(
    exposition: Exposition,
    families: Mapping[str, object],
    rollouts: Mapping[str, RolloutStatus],
    ended: Mapping[str, int],
) -> None:
    """Of the last roll-out of each of the ``families``, and of all that have ``ended`` since the start."""
    shares = {name: each.share for name, each in rollouts.items() if each.ending is None}
    exposition.add(SHARE, [((family,), shares.get(family, 0.0)) for family in families])
    exposition.add(ENDED, [((ending.value,), ended.get(ending, 0)) for ending in Ending])
