"""A server whose devices are all of another host has its agent measure new models, while that serves."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from live_agents import add_remote_profiles, agents
from live_server import serving
from tiny import add_plan, make_workspace, passing_on
from versioned import AUTHORIZED, BY_HAND, FAMILY, NEW, OLD, TOKEN, Watched, renamed

from proteus_cli.domain.profile import Profile
from proteus_cli.store import model_digest, read_json

pytestmark = [pytest.mark.live, pytest.mark.extended, pytest.mark.hosts]

MEASURED_WITHIN_S = 300.0
DEVICE = "a/cpu0"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Watched]:
    made = make_workspace(tmp_path / "ws", [FAMILY])
    passing_on(made.model(OLD))
    add_remote_profiles(made, "a")
    plan = add_plan(made, {DEVICE: OLD}, demand_qps=1.0)
    tokens = made.root / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    options = ("--replan=period=1s", "--auth-tokens", str(tokens), "--set=catalog-budget=20s")
    with (
        agents(made.root, "a"),
        serving(made.root, plan, *options, "--cluster", str(made.root / "hosts.toml")) as live,
    ):
        yield Watched(live, made)
        assert live.stop() == 0, live.log.read_text()
        assert "Traceback" not in live.log.read_text(), live.log.read_text()


def is_measured(profile: Profile, model: Path) -> bool:
    """It tells of the device, and of runs of that model."""
    measured = profile.of("shapes", OLD)
    return (
        profile.device.id == DEVICE
        and measured is not None
        and measured.model_digest == model_digest(model)
        and measured.points[0].runs > 0
    )


def test_a_model_that_has_changed_is_measured_by_the_agent_and_served(server: Watched) -> None:
    before = server.ask()
    server.made.model(OLD).write_bytes(renamed(server.made.model(OLD)))
    digest = model_digest(server.made.model(OLD))
    assert server.live.ask("POST", "/v2/proteus/catalog", b"", AUTHORIZED).status == 200
    name = f"{OLD}@{digest.removeprefix('sha256:')[:8]}"
    server.live.until(lambda _: server.ask() == name, MEASURED_WITHIN_S)
    assert before == OLD
    assert {status for status, _, _ in server.answers} == {200}, server.live.log.read_text()
    assert is_measured(server.made.place.profile(DEVICE), server.made.model(OLD))
    log = server.live.log.read_text()
    assert f"measuring what is new on {DEVICE}" in log
    assert "is lost" not in log


def test_a_version_is_measured_by_the_agent_and_rolled_out(server: Watched) -> None:
    passing_on(server.version(2)).write_bytes(renamed(server.version(2)))
    server.start(**BY_HAND)
    server.live.until(lambda _: server.status()["stage"] == "canary", MEASURED_WITHIN_S)
    kept = read_json(server.made.place.version_profile_path(DEVICE), Profile, hint="")
    assert is_measured(kept, server.version(2))
    assert server.post("/shapes/promote", {"fully": True})[0] == 200
    server.until_stage("full")
    server.until(lambda _: server.hosted() == {NEW})
    assert server.ask() == NEW
    assert {status for status, _, _ in server.answers} == {200}, server.live.log.read_text()
