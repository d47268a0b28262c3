"""`proteus plan` as a user types it, on imported profiles that heads can add up.

SLO 100 ms, so a batch may take 50 ms. A small device does one query of `a-s` (accuracy 0.8) in 10 ms = 100 qps, of
`a-l` (1.0) in 50 ms = 20 qps, and of `b-s` (0.5, the only one of `b`) in 20 ms = 50 qps; a big one is twice as fast.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import make_cascade_point, make_plan, near, swaps_from
from command_line import Ended, proteus
from tiny import DEVICES, Tiny, add_plan, add_profiles, change_json

from proteus_cli.cli.plan import short_families
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.base import LARGEST_FLOAT
from proteus_cli.domain.plan import FrontierPoint, Plan
from proteus_cli.domain.stages.cascade import CascadeProfile
from proteus_cli.planning.analysis.explain import Explanation
from proteus_cli.planning.from_workspace import planner_settings
from proteus_cli.store import Workspace, read_json

CSV = """device_type,family,variant,accuracy,batch,latency_ms,power_w,memory_bytes,device_memory_bytes
small,a,a-s,0.8,1,10,10,1000,3000
small,a,a-l,1.0,1,50,30,2000,3000
small,b,b-s,0.5,1,20,20,1000,3000
big,a,a-s,0.8,1,5,40,1000,6000
big,a,a-l,1.0,1,25,100,2000,6000
big,b,b-s,0.5,1,10,60,1000,6000
"""
PRICES = "\n[price_per_hour]\nsmall = 1.0\nbig = 1.5\n"
FLEET = ("--fleet", "small:2,big:1")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "profiles.csv").write_text(CSV)
    ended = proteus("profile", "--from-csv", tmp_path / "profiles.csv", "--slo", "100ms", "-w", tmp_path)
    assert ended.code == 0, ended.stderr
    return tmp_path


PAPER = ("--residency", "1", "--no-cascades")
"""One variant on a device and no cascades, so that heads can add up."""


def plan(workspace: Path, *arguments: str | Path) -> Ended:
    return proteus("plan", *FLEET, "--headroom", "1", *PAPER, *arguments, "-w", workspace)


def planned(workspace: Path, *arguments: str | Path) -> Plan:
    ended = plan(workspace, *arguments)
    assert ended.code == 0, ended.stderr
    return read_json(workspace / "plans" / "plan.json", Plan, hint="written just now")


def placed(made: Plan) -> dict[str, str]:
    return {p.device: p.variant for p in made.placements}


def test_a_plan_for_a_fleet_uses_made_up_devices_of_the_profiled_types(workspace: Path) -> None:
    """60 qps of a-l: 20 on each small device, 40 on the big one."""
    made = planned(workspace, "--demand", "a=80qps")
    assert made.fleet == {"small": ("small-0", "small-1"), "big": ("big-0",)}
    assert placed(made) == {"small-0": "a-l", "small-1": "a-l", "big-0": "a-l"}
    assert set(made.inputs) == {"engines/catalog.toml", "profiles/small.json", "profiles/big.json"}


def test_like_devices_share_a_row(workspace: Path) -> None:
    ended = plan(workspace, "--demand", "a=80qps")
    assert "2 × small" in ended.stdout
    assert "big-0" in ended.stdout


def test_rules_are_kept_in_the_plan_so_that_a_re_plan_obeys_them(workspace: Path) -> None:
    arguments = (
        "--rule=pin big:a-s",
        "--rule=ban small-0:a/a-l",
        "--rule=reserve small-1=b",
        "--min-accuracy",
        "b=0.5",
    )
    made = planned(workspace, "--demand", "a=10qps,b=10qps", *arguments)
    assert placed(made) in ({"big-0": "a-s", "small-0": "b-s"}, {"big-0": "a-s", "small-1": "b-s"})  # equally good
    assert [str(reserved) for reserved in made.rules.reserved if reserved.device == "small-1"]
    assert [str(pair) for pair in made.rules.pinned] == ["big:a/a-s"]
    assert [str(pair) for pair in made.rules.banned] == ["small-0:a/a-l"]
    assert made.rules.min_accuracy == {"b": 0.5}
    assert placed(re_planned(workspace)) == placed(made)


def re_planned(workspace: Path) -> Plan:
    """The plan for the same demand that a planner makes from what stands in the plan."""
    place = Workspace(workspace)
    made = place.plan(Path("plan"))
    policy, profiles = policy_named(made.policy), place.profiles_of(made)
    planner = planner_settings(place, policy, made.headroom, profiles=profiles, rules=made.rules, spares=False).make()
    return planner(made.demand_qps, made)


def test_limits_can_stand_in_the_catalog(workspace: Path) -> None:
    catalog = workspace / "engines" / "catalog.toml"
    text = catalog.read_text().replace('name = "a"', 'name = "a"\nmin_accuracy = 0.9\nreserved = ["big"]', 1)
    catalog.write_text(text)
    made = planned(workspace, "--demand", "a=10qps,b=10qps")
    assert made.rules.min_accuracy == {"a": 0.9}
    assert {p.family for p in made.placements if p.device == "big-0"} <= {"a"}
    assert {p.variant for p in made.placements if p.family == "a"} == {"a-l"}


def test_the_command_line_wins_over_the_catalog(workspace: Path) -> None:
    catalog = workspace / "engines" / "catalog.toml"
    catalog.write_text(catalog.read_text().replace('name = "a"', 'name = "a"\nmin_accuracy = 0.9', 1))
    assert planned(workspace, "--demand", "a=10qps", "--min-accuracy", "a=0.7").rules.min_accuracy == {"a": 0.7}


def test_an_accuracy_to_expect_is_a_limit_of_its_own(workspace: Path) -> None:
    catalog = workspace / "engines" / "catalog.toml"
    catalog.write_text(catalog.read_text().replace('name = "a"', 'name = "a"\nmin_expected_accuracy = 0.9', 1))
    made = planned(workspace, "--demand", "a=10qps")
    assert (made.rules.min_accuracy, made.rules.min_expected_accuracy) == ({}, {"a": 0.9})
    assert {placement.variant for placement in made.placements if placement.family == "a"} == {"a-l"}
    made = planned(workspace, "--demand", "a=10qps", "--min-expected-accuracy", "0.1")
    assert made.rules.min_expected_accuracy == {"a": 0.1, "b": 0.1}


def test_a_catalog_may_speak_of_devices_that_are_not_in_the_fleet(workspace: Path) -> None:
    catalog = workspace / "engines" / "catalog.toml"
    catalog.write_text(catalog.read_text().replace('name = "a"', 'name = "a"\nreserved = ["gpu0"]', 1))
    ended = plan(workspace, "--demand", "a=10qps")
    assert ended.code == 0
    assert "the catalog has rules for gpu0, which are not in this fleet" in ended.stderr


def test_what_stays_unserved_is_said_with_the_multiple_that_fits(workspace: Path) -> None:
    """Two small and a big one carry 100 + 100 + 200 = 400 qps of a-s: half of 800."""
    ended = plan(workspace, "--demand", "a=800qps")
    assert ended.code == 0
    assert "the devices cannot serve 400 qps of the demand" in ended.stderr
    assert "they could serve 0.50 times this demand" in ended.stderr


def one_device(workspace: Path, *arguments: str) -> Ended:
    return proteus("plan", "--fleet", "small:1", "--headroom", "1", *PAPER, *arguments, "-w", workspace)


def test_the_family_that_has_no_device_is_named_with_the_option_that_gives_it_one(workspace: Path) -> None:
    """One device with one variant serves `a`; as both fit on it, each is served with half of its time."""
    ended = one_device(workspace, "--demand", "a=30qps,b=10qps")
    assert ended.code == 0
    assert "cannot serve 10 qps of the demand (b: none of its 10 qps)" in ended.stderr
    assert "1 device cannot host 2 families with one variant on each: `--residency 2`, or" in ended.stderr
    wider = one_device(workspace, "--demand", "a=30qps,b=10qps", "--residency", "2")
    assert (wider.code, "cannot" in wider.stderr) == (0, False)


def test_families_that_are_served_in_part_are_named_and_need_no_wider_residency(workspace: Path) -> None:
    """All three devices carry 400 qps of `a`, and there are devices for two families."""
    ended = plan(workspace, "--demand", "a=800qps")
    assert "cannot serve 400 qps of the demand (a: 400 qps of its 800 qps); they could" in ended.stderr
    assert "--residency" not in ended.stderr


def test_strictly_the_want_of_devices_is_a_hint(workspace: Path) -> None:
    ended = one_device(workspace, "--demand", "a=30qps,b=10qps", "--strict")
    assert ended.code == 3
    assert "`--residency 2`" in ended.stderr.partition("hint: ")[2]


def test_of_many_families_that_lack_devices_only_some_are_named() -> None:
    demand_qps = {f"f{n}": 10.0 + n for n in range(8)}
    made = make_plan(demand_qps=demand_qps)
    assert short_families(made).startswith("f7: none of its 17 qps, f6: ")
    assert short_families(made).endswith("f3: none of its 13 qps, and 3 more families")


def test_strictly_a_conflict_is_named(workspace: Path) -> None:
    """b needs little; a with its floor can't have 100 qps, as a-l carries 80 in all."""
    message = plan(workspace, "--demand", "a=100qps,b=5qps", "--min-accuracy", "a=0.9", "--strict").refused(3)
    assert message.splitlines()[1:] == ["  - a: serve 100 qps", "  - a: only variants of accuracy 0.9 or more"]


def test_a_demand_that_no_rule_stands_in_the_way_of_is_named_alone(workspace: Path) -> None:
    message = plan(workspace, "--demand", "a=800qps,b=5qps", "--strict").refused(3)
    assert message.endswith("unserved. This alone can't be met:\n  - a: serve 800 qps")


def test_rules_that_conflict_are_named(workspace: Path) -> None:
    message = plan(workspace, "--demand", "a=1qps", "--rule=pin small:a-l", "--rule=ban small-1:a-l").refused(3)
    assert message.splitlines()[1:] == ["  - small-1: a-l is banned", "  - small: a-l is pinned"]
    assert not (workspace / "plans").exists()


def test_the_cheapest_plan_serves_all_above_the_floor(workspace: Path) -> None:
    """35 qps of a-l need two small devices at 2.0 per hour, or the big one at 1.5."""
    catalog = workspace / "engines" / "catalog.toml"
    catalog.write_text(catalog.read_text() + PRICES)
    made = planned(workspace, "--demand", "a=35qps", "--minimize", "cost", "--min-accuracy", "0.9")
    assert placed(made) == {"big-0": "a-l"}
    message = plan(workspace, "--demand", "a=81qps", "--minimize", "cost", "--min-accuracy", "0.9").refused(3)
    assert "a: serve 81 qps" in message


def test_a_budget_in_watts_is_kept(workspace: Path) -> None:
    """All of 80 qps at 1.0 draws 160 W; with 70 W two small ones do 40 qps of a-l, or one of them and more of a-s."""
    made = planned(workspace, "--demand", "a=80qps", "--budget-w", "70")
    assert sum(made.served_qps.values()) == pytest.approx(80.0)
    assert placed(made)["small-0"] == "a-l" or placed(made)["small-1"] == "a-l"
    assert "big-0" not in placed(made) or placed(made)["big-0"] == "a-s"


def test_devices_hold_as_many_variants_as_fit_their_memory(workspace: Path) -> None:
    """One small device: 3000 bytes hold a-l and b-s, whose 10 and 20 qps keep it busy for 0.5 + 0.4 of its time."""
    arguments = ("--demand", "a=10qps,b=20qps", "--headroom", "1", "-w", workspace, "--fleet", "small:1")
    assert proteus("plan", *arguments).code == 0
    made = read_json(workspace / "plans" / "plan.json", Plan, hint="")
    assert made.rules.residency == "memory"
    assert {(p.device, p.variant) for p in made.placements} == {("small-0", "a-l"), ("small-0", "b-s")}
    assert {p.variant: p.capacity_qps for p in made.placements} == pytest.approx({"a-l": 10 / 0.9, "b-s": 20 / 0.9})
    assert proteus("plan", *arguments, "--residency", "1", "--strict").code == 3


@pytest.mark.parametrize(
    ("options", "residency"),
    [
        ((), "memory"),
        (("--survive", "1"), 1),
        (("--policy", "most-accurate"), 1),
        (("--policy", "most-accurate", "--residency", "2"), 2),
    ],
)
def test_devices_share_unless_a_loss_is_to_be_survived_or_the_policy_chooses_a_variant(
    workspace: Path, options: tuple[str, ...], residency: int | str
) -> None:
    assert proteus("plan", "--demand", "a=10qps,b=20qps", "-w", workspace, *FLEET, *options).code == 0
    assert read_json(workspace / "plans" / "plan.json", Plan, hint="").rules.residency == residency


def test_of_unknown_memory_a_device_hosts_one_variant_and_the_plan_says_what_it_lacks(workspace: Path) -> None:
    big = json.loads((workspace / "profiles" / "big.json").read_text())["device"]
    change_json(workspace / "profiles" / "big.json", device=big | {"memory_bytes": 0})
    asked = ("--demand", "a=10qps,b=20qps", "-w", workspace, *FLEET)
    said = proteus("plan", *asked).stderr
    assert "more accurate if profiles knew how much memory big has, or its variants take" in said
    assert "answers to an eval split" in said
    assert read_json(workspace / "plans" / "plan.json", Plan, hint="").rules.residency == 1
    assert "profiles knew" not in proteus("plan", *asked, *PAPER).stderr


def test_cascades_of_the_profiles_are_used_unless_they_are_not_wanted(workspace: Path) -> None:
    add_cascades(workspace)
    asked = ("--demand", "a=150qps", "-w", workspace, *FLEET)
    assert "a-s → a-l" in proteus("plan", *asked).stdout
    assert "a-s → a-l" not in proteus("plan", *asked, "--no-cascades").stdout


def test_a_plan_comes_from_the_current_one_with_the_fewest_loads(workspace: Path) -> None:
    first = planned(workspace, "--demand", "a=10qps", "--no-spares")
    kept = workspace / "kept.json"
    kept.write_bytes((workspace / "plans" / "plan.json").read_bytes())
    second = planned(workspace, "--demand", "a=10qps,b=10qps", "--current", kept, "--pack")
    assert swaps_from(second, first) == 1


def test_what_a_spare_is_stands_below_a_table_with_one(workspace: Path) -> None:
    lean, usual = (plan(workspace, "--demand", "a=10qps", *more).stdout for more in (("--no-spares",), ()))
    assert "a spare" in usual
    assert "a spare" not in lean


def test_devices_that_a_plan_leaves_idle_host_spares_as_in_serving(workspace: Path) -> None:
    lean, usual = (planned(workspace, "--demand", "a=10qps", *more) for more in (("--no-spares",), ()))
    assert usual.placements[: len(lean.placements)] == lean.placements
    spares = usual.placements[len(lean.placements) :]
    assert spares
    assert all(placement.rate_qps == 0 for placement in spares)
    idle = {*usual.devices} - {placement.device for placement in lean.placements}
    assert {placement.device for placement in spares} <= idle


def explained(workspace: Path, *arguments: str) -> tuple[Plan, dict[str, Any]]:
    document = plan(workspace, *arguments, "--explain", "--json").document()
    return read_json(workspace / "plans" / "plan.json", Plan, hint=""), document


def test_an_explanation_prices_what_limits_the_plan(workspace: Path) -> None:
    """120 qps: 40 on a-l of the big one, or 20 + 20 of the small ones; more of anything changes the mix."""
    made, document = explained(workspace, "--demand", "a=120qps")
    assert document["plan"]["demand_qps"] == made.demand_qps
    explanation = document["explanation"]
    (family,) = (each for each in explanation["families"] if each["family"] == "a")
    assert family["effective_accuracy"] == pytest.approx(made.effective_accuracy)
    prices = {price["what"]: price for price in explanation["prices"]}
    assert prices["10 qps more of a"]["accuracy_points"] < 0
    assert prices["one more big"]["accuracy_points"] > prices["one more small"]["accuracy_points"] > 0
    assert explanation["max_multiple"] == pytest.approx(400 / 120, rel=0.005)


def test_an_explanation_can_be_read(workspace: Path) -> None:
    ended = plan(workspace, "--demand", "a=120qps", "--min-accuracy", "b=0.4", "--explain")
    assert ended.code == 0, ended.stderr
    assert "what limits this plan" in ended.stdout
    assert "one more big" in ended.stdout
    assert "At most 3.33 times this demand could be served" in ended.stdout
    easy = plan(workspace, "--demand", "a=1qps", "--explain")
    assert "Nothing limits this plan" in easy.stdout


def test_a_plan_keeps_the_attainment_target_that_is_asked_for(workspace: Path) -> None:
    plain, strict = (
        plan(workspace, "--demand", "a=1qps", *options, "--json").document()
        for options in ((), ("--attainment", "99.9%"))
    )
    assert (plain["rules"]["attainment"], strict["rules"]["attainment"]) == (None, 0.999)
    assert plain["inputs"] == strict["inputs"]


def test_a_plan_says_what_it_expects_beside_the_target(workspace: Path) -> None:
    """Without headroom, the demand is nearly all that the devices carry."""
    full = plan(workspace, "--demand", "a=10qps", "--attainment", "99%", "--json").document()
    assert set(full["expected_attainment"]) == {"a"}
    assert 0.9 < full["expected_attainment"]["a"] <= 1
    for explained in ((), ("--explain",)):
        shown = plan(workspace, "--demand", "a=10qps", "--attainment", "99%", *explained).stdout
        lines = [line.split() for line in shown.partition("attainment\n")[2].splitlines()]
        assert ["a", "99", f"{100 * full['expected_attainment']['a']:.2f}"] in lines, shown


def test_a_plan_marks_what_it_expects_to_miss_its_target(tiny: Tiny) -> None:
    """Of shapes nearly all that a device carries is asked."""
    add_profiles(tiny)
    asked = ("--demand", "shapes=725qps,tones=100qps", "--headroom", "1", *PAPER, "-w", tiny.root)
    missing = proteus("plan", *asked)
    rows = [line.split() for line in missing.stdout.partition("attainment\n")[2].splitlines()]
    assert ["tones", "99.5", "100.00"] in rows
    assert ["shapes", "99.5", "98.29!"] in rows
    assert missing.stdout.endswith(" · !: below the target\n")
    assert "expected to miss the target: shapes\n" in missing.stderr
    within = proteus("plan", *asked, "--attainment", "98%")
    assert "!" not in within.stdout
    assert "expected to miss" not in within.stderr


def test_a_sweep_is_a_table_a_document_and_a_picture(workspace: Path) -> None:
    sweep = ("--demand", "a=1qps", "--sweep", "40qps:440qps:200qps")
    table = plan(workspace, *sweep, "--plot", workspace / "frontier.svg", "-o", workspace / "frontier.json")
    assert table.code == 0, table.stderr
    assert [line.split()[0] for line in table.stdout.splitlines() if "qps" in line] == ["40", "240", "440"]
    points = plan(workspace, *sweep, "--json").document()
    assert [point["demand_qps"] for point in points] == [40.0, 240.0, 440.0]
    assert [point["relative_accuracy"] for point in points] == sorted(
        (point["relative_accuracy"] for point in points), reverse=True
    )
    assert points[2]["unserved_qps"] == pytest.approx(40.0)
    assert [p["served_qps"] for p in json.loads((workspace / "frontier.json").read_text())] == [
        pytest.approx(point["served_qps"]) for point in points
    ]
    assert (workspace / "frontier.svg").read_text().lstrip().startswith("<?xml")
    assert not (workspace / "plans").exists()
    assert set(FrontierPoint.__struct_fields__) == {*points[0], "without_cascades"}
    assert set(Explanation.__struct_fields__) == {
        "families",
        "devices",
        "prices",
        "max_multiple",
        "max_multiple_is_lower_bound",
    }


def add_cascades(workspace: Path) -> None:
    """`a-s` defers a fifth to `a-l`; together they reach 0.96."""
    found = CascadeProfile("a", "a-s", "a-l", "", (make_cascade_point(0.3, 0.2, 0.96),))
    for kind in ("small", "big"):
        path = workspace / "profiles" / f"{kind}.json"
        change_json(path, cascades=msgspec.to_builtins((found,)))


def test_a_plan_with_cascades_says_what_goes_through_them(workspace: Path) -> None:
    """Of 150 qps, the big device answers 40 of `a-l`: a fifth of 137.5, and the other 12.5 alone."""
    add_cascades(workspace)
    made = planned(workspace, "--demand", "a=150qps", "--cascades")
    assert [(each.first, each.second, each.rate_qps) for each in made.cascades] == [("a-s", "a-l", near(137.5))]
    assert made.relative_accuracy == pytest.approx((137.5 * 0.96 + 12.5) / 150)
    assert not planned(workspace, "--demand", "a=150qps").cascades
    shown = plan(workspace, "--demand", "a=150qps", "--cascades").stdout
    assert "a-s → a-l" in shown
    assert "deferred" in shown
    explained = plan(workspace, "--demand", "a=150qps", "--cascades", "--explain").stdout
    assert "without cascades" in explained


def test_a_second_stage_does_not_look_unused(workspace: Path) -> None:
    """The small ones answer 100 qps each first, and the big one the 40 that these defer to it."""
    add_cascades(workspace)
    shown = plan(workspace, "--demand", "a=200qps", "--rule", "pin big:a-l", "--cascades").stdout
    lines = [line.split() for line in shown.splitlines()]
    assert ["big-0", "a", "a-l", "–", "100.0", "%", "–", "1", "40"] in lines, shown
    assert ["a", "a-s", "→", "a-l", "200", "100.0", "%", "40", "20.0", "%", "0.9600"] in lines


def test_all_variants_of_a_device_are_as_busy_as_it_is(workspace: Path) -> None:
    add_cascades(workspace)
    arguments = ("--fleet", "big:1", "--demand", "a=60qps", "--cascades", "--residency", "2")
    shown = proteus("plan", *arguments, "--headroom", "1", "-w", workspace).stdout
    made = read_json(workspace / "plans" / "plan.json", Plan, hint="written just now")
    assert len(made.placements) == 2
    assert "all variants together" in shown
    busy = {f"{(p.rate_qps + p.deferred_qps) / p.capacity_qps:.1%}".replace("%", " %") for p in made.placements}
    assert len(busy) == 1
    assert shown.count(busy.pop()) >= 2, shown


def test_a_plan_that_may_but_does_not_use_cascades_says_why(workspace: Path) -> None:
    """Without cascades in the profiles; where the most accurate variant serves all; where devices host one variant."""
    arguments = ("--fleet", "big:1", "--headroom", "1", "--cascades", "-w", workspace)
    said = proteus("plan", "--demand", "a=60qps", *arguments).stderr
    assert "no cascade is used: no profile has any of a; `proteus profile`" in said
    add_cascades(workspace)
    assert "accurate variants serve this demand alone" in proteus("plan", "--demand", "a=20qps", *arguments).stderr
    assert "`--residency 2`" in proteus("plan", "--demand", "a=60qps", "--residency", "1", *arguments).stderr
    said = proteus("plan", "--demand", "a=60qps", "--residency", "2", *arguments).stderr
    assert "no cascade is used" not in said
    assert "no cascade is used" not in plan(workspace, "--demand", "a=60qps").stderr


def test_a_plan_that_survives_says_which_option_to_leave_out(workspace: Path) -> None:
    ended = plan(workspace, "--demand", "10qps", "--cascades", "--residency", "2", "--survive-host", "1")
    assert "hint: leave out `--residency 2`, or `--survive-host`" in ended.stderr


def test_a_sweep_with_cascades_compares_with_plans_without(workspace: Path) -> None:
    add_cascades(workspace)
    sweep = ("--demand", "a=1qps", "--sweep", "60qps:240qps:90qps", "--cascades")
    table = plan(workspace, *sweep, "--plot", workspace / "both.svg")
    assert "without" in table.stdout
    assert (workspace / "both.svg").exists()
    points = plan(workspace, *sweep, "--json").document()
    assert all(point["relative_accuracy"] >= point["without_cascades"] for point in points)
    assert points[1]["relative_accuracy"] > points[1]["without_cascades"] + 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rule", "pin nowhere:a-s"), "No device and no device type `nowhere`."),
        (("--rule", "pin small"), "`small` names no variant on a device."),
        (("--rule", "pin"), "`pin` has an empty item."),
        (("--rule", "ban small:a-s,"), "`ban small:a-s,` has an empty item."),
        (("--rule", "forbid small:a-s"), "`forbid small:a-s` is no rule."),
        (("--rule", "ban small:zzz"), "No variant `zzz` in the catalog."),
        (("--rule", "reserve small=zzz"), "No family `zzz` in the catalog."),
        (("--min-accuracy", "1.1"), "`1.1` is not a fraction."),
        (("--min-accuracy", "a=0.9,a=0.8"), "`--min-accuracy` names `a` twice."),
        (("--max-share", "zzz=0.5"), "No family `zzz` in the catalog."),
        (("--max-share", "0"), "The rules are not valid: Expected `float` > 0.0 - at `$.max_share[...]`"),
        (("--residency", "0"), "`0` is not a residency."),
        (("--residency", "9" * 5000), f"`{'9' * 5000}` is not a residency."),
        (("--residency", "٣"), "`٣` is not a residency."),
        (("--residency", "2", "--survive", "1"), "The rules are not valid: survive takes one variant per device"),
        (("--fairness", "\udc80"), r"`--fairness` can't be `\udc80`."),
        (("--capacity", "P50"), "`--capacity` can't be `P50`."),
        (("--minimize", "time"), "`--minimize` can't be `time`."),
        (("--slo-fraction", "0"), "The rules are not valid: Expected `float` > 0.0 - at `$.slo_fraction`"),
        (("--budget-w", "-1"), "The rules are not valid: Expected `float` >= 0.0 - at `$.budget_w`"),
        (("--budget-cost", "inf"), f"The rules are not valid: Expected `float` <= {LARGEST_FLOAT} - at"),
        (("--minimize", "cost"), "No price per hour is known of `small`, `big`."),
        (("--attainment", "99.9"), "`99.9` is not a share between none and all."),
        (("--plot", "f.png"), "`--plot` draws a sweep."),
        (("--sweep", "1qps:2qps:1qps", "--plot", "f.gif"), "`f.gif` is neither .png nor .svg."),
        (("--sweep", "1qps:2qps:1qps", "--explain"), "`--explain`, `--strict` and `--current` are for one plan."),
        (("--sweep", "2qps:1qps:1qps"), "The sweep `2qps:1qps:1qps` has no points."),
        (("--sweep", "1qps:2qps"), "`1qps:2qps` is not a sweep."),
        (("--current", "nothing.json"), "No file `nothing.json`."),
    ],
    ids=lambda given: str(given)[:60],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(workspace: Path, arguments: tuple[str, ...], message: str) -> None:
    assert plan(workspace, "--demand", "10qps", *arguments).refused().startswith(message)
    assert not (workspace / "plans").exists()


def test_the_loss_of_the_only_host_leaves_no_plan(workspace: Path) -> None:
    said = plan(workspace, "--demand", "10qps", "--survive-host", "1").refused(3)
    assert said.startswith("No plan survives the loss of a host: there is only one host, this machine.")
    assert not (workspace / "plans").exists()


# --- plan diff


def test_the_difference_of_two_plans_is_shown_device_by_device(tiny: Tiny) -> None:
    add_plan(tiny, {"cpu0": "shapes-s", "cpu1": "shapes-l"}, name="a")
    later = add_plan(tiny, {"cpu0": "shapes-s", "cpu1": "tones-l"}, demand_qps=10.0, name="b")
    (tiny.place.history_dir).mkdir()
    later.rename(tiny.place.history_dir / "000001-20260101T000000Z.json")
    shown = proteus("plan", "diff", "a", "000001-20260101T000000Z", "-w", tiny.root)
    assert shown.code == 0, shown
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert any(line[:6] == ["cpu0", "=", "shapes-s", "50.0", "%", "→"] for line in lines), shown.stdout
    assert any(line[:3] == ["cpu1", "+", "tones-l"] for line in lines)
    assert any(line[:2] == ["−", "shapes-l"] for line in lines)
    assert "demand, served, capacity: queries per second" in shown.stdout
    assert "1 load;" in shown.stderr
    document = proteus("plan", "diff", "a", "000001-20260101T000000Z", "--json", "-w", tiny.root).document()
    assert document["swaps"] == 1
    assert [device["device"] for device in document["devices"] if device["loads"]] == ["cpu1"]


def test_the_difference_of_two_plans_shows_the_attainment_that_they_expect(tiny: Tiny) -> None:
    """A plan that was made for no forecast expects none; where both expect the same, nothing is said."""
    add_plan(tiny, {"cpu0": "shapes-s", "cpu1": "shapes-l"}, name="a")
    forecast = add_plan(tiny, {"cpu0": "shapes-s", "cpu1": "shapes-l"}, name="b")
    forecast.write_text(json.dumps(json.loads(forecast.read_text()) | {"expected_attainment": {"shapes": 0.97}}))
    shown = proteus("plan", "diff", "a", "b", "-w", tiny.root)
    assert shown.code == 0, shown
    (row,) = [line for line in shown.stdout.splitlines() if line.startswith("shapes ")]
    assert row.endswith("– → 97.00 %"), shown.stdout
    assert "expected" not in proteus("plan", "diff", "b", "b", "-w", tiny.root).stdout
    families = proteus("plan", "diff", "a", "b", "--json", "-w", tiny.root).document()["families"]
    assert {each["family"]: each["expected_attainment"] for each in families}["shapes"] == {
        "before": None,
        "after": 0.97,
    }


def test_the_difference_of_two_plans_shows_their_cascades(workspace: Path) -> None:
    add_cascades(workspace)
    pinned = ("--rule", "pin big:a-l", "--cascades")
    plan(workspace, "--demand", "a=150qps", *pinned, "-o", workspace / "plans" / "more.json")
    plan(workspace, "--demand", "a=80qps", "-o", workspace / "plans" / "none.json")
    shown = proteus("plan", "diff", "none", "more", "-w", workspace).stdout
    lines = [line.split() for line in shown.splitlines()]
    assert any(line[:5] == ["a", "+", "a-s", "→", "a-l"] for line in lines), shown
    (begun,) = proteus("plan", "diff", "none", "more", "--json", "-w", workspace).document()["cascades"]
    assert begun["threshold"] == {"before": None, "after": 0.3}
    (ended,) = proteus("plan", "diff", "more", "none", "--json", "-w", workspace).document()["cascades"]
    assert ended["rate_qps"] == {"before": near(137.5), "after": None}
    assert "cascade" not in proteus("plan", "diff", "more", "more", "-w", workspace).stdout


def test_options_for_making_a_plan_are_not_passed_over_in_silence(tiny: Tiny) -> None:
    add_plan(tiny, {"cpu0": "shapes-s"}, name="a")
    ended = proteus("plan", "--demand", "5qps", "diff", "a", "a", "-w", tiny.root)
    assert "`--demand` is for making a plan" in ended.refused()
    assert "No file" in proteus("plan", "diff", "a", "nothing", "-w", tiny.root).refused()


def changed_points(tiny: Tiny, device: str, variant: str, **fields: Any) -> None:
    """Change fields of all points of a variant in the profile of a device."""
    path = tiny.place.profile_path(device)
    variants = json.loads(path.read_text())["variants"]
    for point in next(each for each in variants if each["variant"] == variant)["points"]:
        point.update(fields)
    change_json(path, variants=variants)


def test_a_plan_that_counts_on_noisy_cells_says_so(tiny: Tiny) -> None:
    quiet = proteus("plan", "--demand", "shapes=10qps", "-w", tiny.root)
    assert "noisy" not in quiet.stderr
    for device in DEVICES:
        changed_points(tiny, device, "shapes-l", noise_frac=0.5)
    warned = proteus("plan", "--demand", "shapes=10qps", "-w", tiny.root)
    assert "warning: noisy cells (shapes-l on cpu-1c): the plan's rates may be too low;" in " ".join(
        warned.stderr.split()
    )


def test_a_plan_says_which_variants_the_profile_of_a_device_lacks(tiny: Tiny) -> None:
    path = tiny.place.profile_path("cpu1")
    variants = json.loads(path.read_text())["variants"]
    change_json(path, variants=[each for each in variants if each["variant"] not in {"shapes-l", "tones-s"}])
    stderr = proteus("plan", "--demand", "shapes=10qps", "-w", tiny.root).stderr
    assert "not profiled on cpu1, so not placed there: shapes-l, tones-s" in " ".join(stderr.split())
    assert stderr.count("warning:") == 1


def test_what_sharing_is_taken_to_cost_is_said_of_a_plan_and_of_a_sweep(workspace: Path) -> None:
    """Where devices are shared, and nobody has measured what that costs."""
    one = ("--demand", "a=50qps,b=10qps", "--fleet", "small:1")
    free = (
        "a-s, b-s on a small: taken to cost each other no time, as not all of it was measured; measure it with `proteus"
    )
    assert "taken to cost" not in plan(workspace, *one, "--residency", "1").stderr
    assert free in plan(workspace, *one, "--residency", "2").stderr
    swept = plan(workspace, *one, "--residency", "2", "--sweep", "60qps:70qps:10qps", "--json")
    assert swept.stderr.count(free) == 1
    assert len(json.loads(swept.stdout)) == 2


def test_a_plan_is_for_this_machine_and_says_which_hosts_it_leaves_out(tiny: Tiny) -> None:
    add_profiles(tiny, ["cpu0", "b/cpu0", "c/cpu0"])
    ended = proteus("plan", "--demand", "10qps", "-w", tiny.root)
    assert [*tiny.place.plan(Path("plan")).devices] == ["cpu0", "cpu1"]
    assert "left out the profiles of b, c: `--cluster`" in ended.stderr


def test_a_plan_for_a_cluster_is_for_its_hosts_and_this_machine(tiny: Tiny) -> None:
    add_profiles(tiny, ["cpu0", "b/cpu0", "c/cpu0"])
    hosts = tiny.root / "hosts.toml"
    hosts.write_text('[hosts.b]\naddress = "127.0.0.1:7000"\n')
    ended = proteus("plan", "--demand", "10qps", "--cluster", hosts, "-w", tiny.root)
    assert [*tiny.place.plan(Path("plan")).devices] == ["cpu0", "cpu1", "b/cpu0"]
    assert "left out the profiles of c:" in ended.stderr


def test_where_only_hosts_have_profiles_the_plan_is_for_them(tiny: Tiny) -> None:
    for device in DEVICES:
        tiny.place.forget(device)
    add_profiles(tiny, ["b/cpu0"])
    ended = proteus("plan", "--demand", "10qps", "-w", tiny.root)
    assert [*tiny.place.plan(Path("plan")).devices] == ["b/cpu0"]
    assert "only hosts have profiles (b)" in ended.stderr


@pytest.mark.parametrize(("name", "left"), [("b", ["cpu0", "cpu1"]), ("b/cpu1", ["cpu0", "cpu1", "b/cpu0"])])
def test_profiles_of_a_host_or_a_device_are_removed_with_what_lies_beside_them(
    tiny: Tiny, name: str, left: list[str]
) -> None:
    add_profiles(tiny, ["cpu0", "b/cpu0", "b/cpu1"])
    for beside in (tiny.place.answers_path("b/cpu1"), tiny.place.version_profile_path("b/cpu1")):
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.touch()
    ended = proteus("devices", "forget", name, "-w", tiny.root)
    assert ended.code == 0, ended.stderr
    assert "b/cpu1" in ended.stderr
    assert [*tiny.place.profiles()] == left
    assert not tiny.place.answers_path("b/cpu1").exists()
    assert not tiny.place.version_profile_path("b/cpu1").exists()


def test_profiles_that_are_not_there_are_not_removed(tiny: Tiny) -> None:
    add_profiles(tiny, ["cpu0"])
    for name in ("b", ""):
        ended = proteus("devices", "forget", name, "-w", tiny.root)
        assert f"No profile of `{name}`" in ended.refused()
        assert "there are: cpu0, cpu1" in ended.stderr
    assert "`--json` is for the list of devices" in proteus("devices", "--json", "forget", "cpu0").refused()
