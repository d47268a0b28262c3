"""Links follow the list of hosts; who serves is left alone by it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from agents import RunningAgent, remote_device, run, running_agent, until

from proteus_cli.errors import DeviceLost
from proteus_cli.serving import lifecycle
from proteus_cli.serving.devices.remote.channel.address import AgentAddress, Agents
from proteus_cli.serving.devices.remote.links.link import AgentLink
from proteus_cli.serving.devices.remote.links.links import AgentLinks
from proteus_cli.serving.lifecycle import TaskErrors, running


@asynccontextmanager
async def opened() -> AsyncIterator[AgentLinks]:
    links = AgentLinks(lambda address, identity: AgentLink(address, identity=identity))
    try:
        yield links
    finally:
        await links.close()


def connected(links: AgentLinks, host: str = "a") -> Callable[[], bool]:
    return lambda: host in links and links[host].is_connected


@asynccontextmanager
async def two_agents(directory: Path) -> AsyncIterator[tuple[RunningAgent, RunningAgent]]:
    """At other addresses, both under the name `a`."""
    for name in "ab":
        (directory / name).mkdir()
    async with running_agent(directory / "a") as first, running_agent(directory / "b") as second:
        yield first, second


async def connect_another(links: AgentLinks, another: RunningAgent) -> None:
    """List this host alone, as `b`, until it is connected again after its session has ended.

    Whatever another host would do by this list, or after its pause, it has done by then: that of `b` began later.
    """
    await asyncio.sleep(0)
    links.use({"b": replace(another.address, name="b")})
    await until(connected(links, "b"))
    first = links["b"].session
    end_session(links, "b")
    await until(lambda: links["b"].session is not first and connected(links, "b")())


def end_session(links: AgentLinks, host: str = "a") -> None:
    session = links[host].session
    assert session is not None
    session.ended("a test")


def test_a_host_that_is_listed_later_is_connected_to(tmp_path: Path) -> None:
    async def test() -> None:
        async with two_agents(tmp_path) as (first, other), opened() as links:
            links.use({"a": first.address})
            await until(connected(links))
            session = links["a"].session
            links.use({"a": first.address, "b": replace(other.address, name="b")})
            await until(connected(links, "b"))
            assert links["a"].session is session

    run(test)


def test_a_list_that_is_empty_for_a_while_ends_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        lost = list[DeviceLost]()
        async with two_agents(tmp_path) as (agent, another), opened() as links:
            links.use({"a": agent.address})
            await until(connected(links))
            remote_device(links["a"], lost.append)
            links.use({})
            await connect_another(links, another)
            assert connected(links)()
            assert not links["a"].state.is_listed
            assert lost == []
            links.use({"a": agent.address})
            assert links["a"].state.is_listed
            end_session(links)
            assert len(lost) == 1
            await until(connected(links))

    run(test)


def test_a_host_that_is_not_listed_any_more_is_left_alone_once_its_connection_ends(tmp_path: Path) -> None:
    async def test() -> None:
        async with two_agents(tmp_path) as (agent, another), opened() as links:
            links.use({"a": agent.address})
            await until(connected(links))
            links.use({})
            end_session(links)
            await until(lambda: not links)
            await until(lambda: not agent.agent.sessions)
            await connect_another(links, another)
            assert set(links) == {"b"}
            assert not agent.agent.sessions, "nobody connects again"
            links.use({"a": agent.address})
            await until(connected(links))

    run(test)


def test_a_host_that_is_not_there_is_not_tried_any_longer_than_it_is_listed(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_agent(tmp_path) as agent, opened() as links:
            nowhere = replace(agent.address, port=1)
            links.use({"a": nowhere})
            assert await links["a"].tried() is None
            links.use({})
            assert not links
            links.use({"a": agent.address})
            await until(connected(links))

    run(test)


@pytest.mark.parametrize("is_listed_meanwhile", [True, False])
def test_a_host_that_does_not_know_yet_that_it_was_cut_off_has_one_session_once_it_is_connected_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_listed_meanwhile: bool
) -> None:
    """Also where the host was not listed for a while: the agent counts the server once."""

    async def test() -> None:
        async with running_agent(tmp_path) as agent, opened() as links:
            links.use({"a": agent.address})
            await until(connected(links))
            cut_off, first = links["a"].session, agent.session
            assert cut_off is not None
            monkeypatch.setattr(cut_off.channel, "close", lambda **_: None)
            end_session(links)
            if not is_listed_meanwhile:
                links.use({})
                assert not links
                links.use({"a": agent.address})
            await until(connected(links))
            assert agent.session is not first
            assert agent.session.hello.server == first.hello.server

    run(test)


def test_a_host_that_moves_is_connected_to_at_its_new_address_once_the_old_connection_ends(tmp_path: Path) -> None:
    async def test() -> None:
        async with two_agents(tmp_path) as (old, new), running_agent(tmp_path) as another, opened() as links:
            links.use({"a": old.address})
            await until(connected(links))
            links.use({"a": new.address, "b": replace(another.address, name="b")})
            await until(connected(links, "b"))
            assert old.agent.sessions
            assert not new.agent.sessions
            end_session(links)
            await until(lambda: new.agent.sessions)
            await until(connected(links))
            await until(lambda: not old.agent.sessions)
            assert len(new.agent.sessions) == 1

    run(test)


def test_each_list_that_comes_is_followed(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_agent(tmp_path) as agent, opened() as links:

            async def changes() -> AsyncGenerator[Agents, None]:
                yield {}
                yield {"a": agent.address}

            await links.follow(iter([changes()]))
            await until(connected(links))
            assert set(links) == {"a"}

    run(test)


def test_after_an_error_of_a_list_its_hosts_are_listed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "RETRY_S", 0.001)

    async def test() -> None:
        async with running_agent(tmp_path) as agent, opened() as links:

            async def wrong() -> AsyncGenerator[Agents, None]:
                yield {}
                raise RuntimeError("a bug")

            async def right() -> AsyncGenerator[Agents, None]:
                yield {"a": agent.address}

            async with running(links.follow, iter([wrong(), right()])):
                await until(connected(links))

    run(test)


def test_a_link_that_a_bug_has_ended_connects_after_a_pause_and_the_error_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = dict[str, TaskErrors]()
    monkeypatch.setattr(lifecycle, "RETRY_S", 0.001)
    monkeypatch.setattr(lifecycle, "task_errors", errors)

    class WrongOnce(AgentLink):
        starts = 0

        async def run(self) -> None:
            self.starts += 1
            if self.starts == 1:
                raise RuntimeError("a bug")
            await super().run()

    async def test() -> None:
        async with running_agent(tmp_path) as agent:
            links = AgentLinks(lambda address, identity: WrongOnce(address, identity=identity))
            links.use({"a": agent.address})
            assert await links["a"].tried() is not None, "whoever waits for the first try learns of the second"
            await links.close()

    run(test)
    assert [(error.total, error.last) for error in errors.values()] == [(1, "RuntimeError('a bug')")]


def test_links_close_at_the_moment_at_which_a_bug_ends_one(monkeypatch: pytest.MonkeyPatch) -> None:
    has_ended = list[str]()

    async def run_wrong(link: AgentLink) -> None:
        has_ended.append(link.address.name)
        raise RuntimeError("a bug")

    async def test() -> None:
        async with opened() as links:
            links.use({"a": AgentAddress("a", "127.0.0.1", 1, None)})
            while not has_ended:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert has_ended == ["a"]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    monkeypatch.setattr(AgentLink, "run", run_wrong)
    asyncio.run(test())
