"""The rules of the ablation are there, and what they replace is put back."""

from pathlib import Path

import pytest

from benchmarks import ablation
from benchmarks.arrivals import kinds
from benchmarks.arrivals.rows import Replayed
from proteus_cli.control.policies import PROTEUS, policy_named
from proteus_cli.control.replanning import replan_rules


def test_each_rule_changes_what_it_names_and_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Replayed("steps", kinds.steps((120.0, 230.0)), 10.0, workers=6)
    monkeypatch.setattr(ablation, "ROWS", {"small": row})
    monkeypatch.setattr("sys.argv", ["ablation", "--only", "small"])
    gain = replan_rules.MIN_GAIN
    with pytest.raises(SystemExit):
        ablation.main()
    printed = capsys.readouterr().out
    assert printed.count("points (to reach: ≥ 0.1)") == len(ablation.RULES)
    assert "✓ excess" in printed
    assert (replan_rules.MIN_GAIN, policy_named("proteus")) == (gain, PROTEUS)
