"""Hosts of a cluster measure at the same time."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from proteus_cli.cli import profile_runs
from proteus_cli.cli.profile_runs import measured_by_agents
from proteus_cli.errors import HostLost
from proteus_cli.serving.devices.remote.channel.messages import MeasureOptions
from proteus_cli.store import Workspace

OPTIONS = MeasureOptions("all", 1.0, 64, 4, accepts_noise=False, as_type=None, force=False, beside_servers=True)
WITHIN_S = 30.0


def measured_with(monkeypatch: pytest.MonkeyPatch, lost: str | None = None) -> tuple[list[Any], list[str]]:
    """Two hosts of which each ends when both have begun; what they found, and which were begun."""
    both, begun = asyncio.Barrier(2), list[str]()

    async def of_host(_: Workspace, agent: str, options: MeasureOptions) -> list[str]:
        begun.append(agent)
        await asyncio.wait_for(both.wait(), WITHIN_S)
        if agent == lost:
            raise HostLost(f"host {agent} is lost")
        return [f"{agent} {options.budget_s:g}s"]

    monkeypatch.setattr(profile_runs, "agents_of", lambda hosts: hosts)
    monkeypatch.setattr(profile_runs, "_measured", of_host)
    hosts = cast("Any", {"a": "a", "b": "b"})
    return measured_by_agents(Workspace(Path()), hosts, OPTIONS), begun


def test_the_budget_is_that_of_all_hosts_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured_with(monkeypatch) == (["a 1s", "b 1s"], ["a", "b"])


def test_a_host_that_is_lost_is_told_after_the_others_have_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostLost, match="host b is lost"):
        measured_with(monkeypatch, lost="b")
