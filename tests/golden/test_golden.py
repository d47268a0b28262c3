"""The committed example profiles make the committed plan and these outputs. `make golden` rewrites what is made."""

from pathlib import Path

import msgspec
import pytest
from command_line import proteus

from proteus_cli.domain.plan import Plan
from proteus_cli.store import Workspace, require_current_models

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
EXAMPLE = Workspace(ROOT)
DEMAND = "300qps"


def _check_text(path: Path, text: str, *, rewrite: bool) -> None:
    if rewrite:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.fixture
def rewrite(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setenv("COLUMNS", "100")
    return bool(request.config.getoption("--golden"))


def _steady(plan: Plan) -> Plan:
    """Without what differs from run to run."""
    solver = msgspec.structs.replace(plan.solver, solve_s=0.0)
    rounded = tuple(
        msgspec.structs.replace(p, rate_qps=round(p.rate_qps, 6), share=round(p.share, 9)) for p in plan.placements
    )
    totals = {
        name: {f: round(qps, 6) for f, qps in getattr(plan, name).items()} for name in ("served_qps", "unserved_qps")
    }
    return msgspec.structs.replace(
        plan,
        made_by=msgspec.structs.replace(plan.made_by, host="", time=""),
        solver=solver,
        placements=rounded,
        **totals,
    )


def test_the_example_profiles_are_of_the_sample_models() -> None:
    catalog = EXAMPLE.catalog()
    for profile in EXAMPLE.profiles().values():
        require_current_models(catalog, profile, EXAMPLE)
        assert {(f.name, v.name) for f in catalog.families for v in f.variants} == {
            (measured.family, measured.variant) for measured in profile.variants
        }


def test_the_example_profiles_make_the_example_plan(tmp_path: Path, rewrite: bool) -> None:  # noqa: FBT001
    made, kept = tmp_path / "plan.json", EXAMPLE.plans_dir / "plan.json"
    ended = proteus("plan", "--demand", DEMAND, "--workspace", ROOT, "-o", made)
    assert ended.code == 0, ended.stderr
    if rewrite:
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(made.read_bytes())
    assert _steady(EXAMPLE.plan(made)) == _steady(EXAMPLE.plan(kept))
    _check_text(HERE / "plan.txt", ended.stdout, rewrite=rewrite)


def test_the_example_plan_is_current() -> None:
    inputs = EXAMPLE.plan(EXAMPLE.plans_dir / "plan.json").inputs
    assert EXAMPLE.digests(ROOT / name for name in inputs) == inputs


def test_the_simulated_replay_of_the_bundled_trace_reads_like_this(rewrite: bool) -> None:  # noqa: FBT001
    arguments = ("--scale-to", "1200qps", "--policy", "proteus,most-accurate", "--workspace", ROOT)
    ended = proteus("replay", ROOT / "traces" / "burst.csv", *arguments)
    assert ended.code == 0, ended.stderr
    _check_text(HERE / "replay.txt", ended.stdout, rewrite=rewrite)
