"""What families prefer, in the catalog and on the command line, and what of it a plan and its table say."""

from pathlib import Path

import pytest
from test_plan_command import PRICES, placed, plan, planned, re_planned, workspace

from proteus_cli.domain.catalog import FamilyPolicy
from proteus_cli.store import parse_catalog

__all__ = ["workspace"]

POLICY = '[family.policy]\nprefer = "latency"\nmax_latency = "80ms"\nmax_energy_j = 1.0\n'


@pytest.fixture
def with_policy(workspace: Path) -> Path:
    catalog = workspace / "engines" / "catalog.toml"
    text = catalog.read_text() + PRICES
    assert text.count("[[family.variant]]") == 3
    catalog.write_text(text.replace("[[family.variant]]", f"{POLICY}\n[[family.variant]]", 1))
    return workspace


def test_a_policy_of_the_catalog_is_what_the_plan_and_the_plans_after_it_obey(with_policy: Path) -> None:
    """The big device is the fastest; a query of a-s takes 0.2 J there, one of a-l 2.5 J, and 1.5 J on a small one."""
    made = planned(with_policy, "--demand", "a=40qps,b=10qps")
    assert {p.variant for p in made.placements if p.family == "a"} == {"a-s"}
    assert [p.device for p in made.placements if p.rate_qps > 0 and p.family == "a"] == ["big-0"]
    assert (made.rules.prefer, made.rules.max_latency_s) == ({"a": "latency"}, {"a": 0.08})
    assert made.objective.endswith("(a: the least latency), then the fewest loads")
    assert placed(re_planned(with_policy)) == placed(made)


def test_the_command_line_wins_and_the_table_says_who_prefers_what(with_policy: Path) -> None:
    ended = plan(with_policy, "--demand", "a=10qps,b=10qps")
    assert "preferred instead of accuracy: a latency" in ended.stdout
    ended = plan(with_policy, "--demand", "a=10qps,b=10qps", "--prefer", "a=accuracy")
    assert "preferred" not in ended.stdout
    made = planned(with_policy, "--demand", "a=10qps,b=10qps", "--prefer", "cost")
    assert made.rules.prefer == {"a": "cost", "b": "cost"}


def test_an_explanation_has_the_price_of_a_preference_and_of_a_bound(with_policy: Path) -> None:
    """Without the bound, nothing changes while latency is preferred."""
    shown = plan(with_policy, "--demand", "a=10qps,b=10qps", "--prefer", "a=energy", "--explain").stdout
    assert "without “a: prefer energy”" not in shown, "the bound leaves nothing but a-s"
    catalog = with_policy / "engines" / "catalog.toml"
    catalog.write_text(catalog.read_text().replace("max_energy_j = 1.0\n", ""))
    shown = plan(with_policy, "--demand", "a=10qps,b=10qps", "--explain").stdout
    assert "without “a: prefer latency”" in shown


def test_devices_of_unknown_price_are_told(with_policy: Path) -> None:
    catalog = with_policy / "engines" / "catalog.toml"
    catalog.write_text(catalog.read_text().replace("small = 1.0\n", ""))
    ended = plan(with_policy, "--demand", "a=10qps,b=10qps", "--prefer", "a=cost")
    assert ended.stderr.count("no price of small is known, so not placed there: a") == 1
    catalog.write_text(catalog.read_text().replace("big = 1.5\n", ""))
    told = plan(with_policy, "--demand", "a=10qps", "--prefer", "a=cost").refused(2)
    assert told == "No price per hour is known of `small`, `big`."


def test_bounds_that_nothing_keeps_are_named(with_policy: Path) -> None:
    catalog = with_policy / "engines" / "catalog.toml"
    catalog.write_text(catalog.read_text().replace("max_energy_j = 1.0", "max_cost_per_million = 0.1"))
    message = plan(with_policy, "--demand", "a=10qps,b=1qps", "--strict").refused(3)
    assert message.splitlines()[1:] == ["  - a: serve 10 qps", "  - a: at most 0.1 for a million queries"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("speed", "`speed` is nothing that a family can prefer"),
        ("a=latency,b", "`` is nothing that a family can prefer"),
        ("c=cost", "No family `c` in the catalog"),
        ("a=cost,a=energy", "names `a` twice"),
    ],
)
def test_what_is_no_preference_is_refused(workspace: Path, given: str, told: str) -> None:
    assert told in plan(workspace, "--demand", "a=10qps", "--prefer", given).refused(2)


def test_the_catalog_of_the_page_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "planning.md").read_text()
    text = page.partition("```toml\n[price_per_hour]")[2].partition("```")[0]
    catalog = parse_catalog(f"format = 1\n[price_per_hour]{text}".encode(), Path("catalog.toml"))
    assert catalog.family("alarms").policy == FamilyPolicy("latency", "40ms", 2.0, 1.5)
    assert catalog.price_of("gpu0", "gpu") == 0.35
