"""What metrics tell of version roll-outs."""

from proteus_cli.control.rollouts.version_rollout import VersionRollout
from proteus_cli.domain.rollouts import RolloutSpecification
from proteus_cli.serving.telemetry.metrics.exposition import Exposition
from proteus_cli.serving.telemetry.metrics.rollouts import add_rollouts


def stages(rollouts: dict[str, VersionRollout]) -> dict[str, list[str]]:
    """By family, the stages that are told to be."""
    exposition = Exposition(openmetrics=False)
    add_rollouts(exposition, dict.fromkeys("ab"), {name: each.status(9.0) for name, each in rollouts.items()}, {})
    lines = [each for each in exposition.finished().decode().splitlines() if each.startswith("proteus_rollout_stage{")]
    assert len(lines) == 2 * 5
    assert {each.rpartition(" ")[2] for each in lines} <= {"0", "1"}
    return {
        family: [each.split('"')[3] for each in lines if f'family="{family}"' in each and each.endswith(" 1")]
        for family in "ab"
    }


def test_the_stage_of_a_rollout_is_told_and_that_there_is_none() -> None:
    one = VersionRollout(RolloutSpecification("a", "m", "m@2", shadow_frac=0.1, canary_fracs=(0.5,)), 0.1, 0.0)
    assert stages({}) == {"a": [], "b": []}
    assert stages({"a": one}) == {"a": ["measuring"], "b": []}
    one.ready(1.0)
    assert stages({"a": one}) == {"a": ["shadow"], "b": []}
    one.promote(2.0)
    assert stages({"a": one}) == {"a": ["canary"], "b": []}
    one.promote(3.0)
    assert stages({"a": one}) == {"a": ["promoting"], "b": []}
    one.promoted(4.0)
    assert stages({"a": one}) == {"a": ["full"], "b": []}
    one.abort(5.0, "")
    assert stages({"a": one}) == {"a": [], "b": []}
