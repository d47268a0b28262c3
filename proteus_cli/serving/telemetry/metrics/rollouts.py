"""Metrics of versions that are rolled out."""

from collections.abc import Mapping

from proteus_cli.domain.rollouts import Ending, RolloutStage, RolloutStatus
from proteus_cli.serving.telemetry.metrics.exposition import Exposition, counter, gauge

SHARE = gauge(
    "proteus_rollout_share_ratio",
    "The share of the queries of a family that a version answers which is being rolled out; 0: there is none.",
    "family",
)
STAGE = gauge(
    "proteus_rollout_stage",
    "1 for the stage of the version roll-out of a family, 0 for the others; 0 for all: there is none.",
    "family",
    "stage",
)
STAGES = tuple(stage for stage in RolloutStage if stage is not RolloutStage.ENDED)
ENDED = counter("proteus_rollouts_total", "Version roll-outs that have ended, by how they did.", "ending")


def add_rollouts(
    exposition: Exposition,
    families: Mapping[str, object],
    rollouts: Mapping[str, RolloutStatus],
    ended: Mapping[str, int],
) -> None:
    """Add the last roll-out of each of the ``families``, and all that have ``ended`` since the start."""
    under_way = {name: each for name, each in rollouts.items() if each.ending is None}
    shares = {name: each.share for name, each in under_way.items()}
    exposition.add(SHARE, [((family,), shares.get(family, 0.0)) for family in families])
    at = {name: each.stage for name, each in under_way.items()}
    samples = [((family, stage.value), int(at.get(family) is stage)) for family in families for stage in STAGES]
    exposition.add(STAGE, samples)
    exposition.add(ENDED, [((ending.value,), ended.get(ending, 0)) for ending in Ending])
