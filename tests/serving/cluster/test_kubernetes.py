"""Agents behind a name: real ones on addresses of the loopback, and a DNS of our own."""

import asyncio
import socket
from collections.abc import Collection
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from agents import RunningAgent, key_of, run, running_agent, until
from cluster.lists import following

from proteus_cli.serving.cluster.kubernetes import KubernetesService, resolved
from proteus_cli.serving.devices.remote.channel.tls import cluster_tls
from proteus_cli.serving.devices.remote.links.link import AgentLink
from proteus_cli.serving.devices.remote.links.links import AgentLinks
from proteus_cli.serving.lifecycle import running

LOOK_S = 0.01
SERVICE = "agents.default.svc"


class Dns:
    """The addresses that a name has at the moment; None: it has no answer."""

    def __init__(self) -> None:
        self.addresses: Collection[str] | None = ()
        self.asked: list[tuple[str, int]] = []

    async def resolve(self, name: str, port: int) -> Collection[str]:
        self.asked.append((name, port))
        if self.addresses is None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return self.addresses

    async def looked_up_again(self) -> None:
        """Two looks begin after now, so one has ended."""
        before = len(self.asked)
        while len(self.asked) < before + 2:
            await asyncio.sleep(LOOK_S)


class Pods(AsyncExitStack):
    """Agents with one port, each at an address of its own."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory, self.port = directory, 0

    async def start(self, address: str, host: str) -> RunningAgent:
        key_of(self._directory)
        directory = self._directory / address
        directory.mkdir()
        (directory / "cluster.pem").symlink_to(key_of(self._directory))
        agent = await self.enter_async_context(running_agent(directory, port=self.port, host=address, name=host))
        self.port = agent.address.port
        return agent

    def service(self, dns: Dns) -> KubernetesService:
        tls = cluster_tls(key_of(self._directory), listens=False)
        return KubernetesService(SERVICE, self.port, tls, dns.resolve, LOOK_S)


def test_hosts_have_the_names_that_their_agents_have(tmp_path: Path) -> None:
    """A pod that comes back has another address, and its host the same name."""

    async def test() -> None:
        dns = Dns()
        async with Pods(tmp_path) as pods:
            await pods.start("127.0.0.1", "node-1")
            async with following(pods.service(dns)) as followed:
                assert await followed.next() == {}
                dns.addresses = {"127.0.0.1"}
                assert await followed.next() == {"node-1": f"127.0.0.1:{pods.port}"}
                await pods.start("127.0.0.2", "node-2")
                dns.addresses = {"127.0.0.1", "127.0.0.2"}
                both = {"node-1": f"127.0.0.1:{pods.port}", "node-2": f"127.0.0.2:{pods.port}"}
                assert await followed.next() == both
                await pods.start("127.0.0.3", "node-2")
                dns.addresses = {"127.0.0.1", "127.0.0.2", "127.0.0.3"}  # the old one still ends
                assert await followed.next() == both | {"node-2": f"127.0.0.3:{pods.port}"}
                dns.addresses = {"127.0.0.1", "127.0.0.3"}
                await dns.looked_up_again()
                assert followed.is_quiet
                dns.addresses = {"127.0.0.3"}
                assert await followed.next() == {"node-2": f"127.0.0.3:{pods.port}"}
        assert set(dns.asked) == {(SERVICE, pods.port)}

    run(test)


def test_an_address_whose_agent_says_another_name_is_that_of_the_other_host(tmp_path: Path) -> None:
    """The DNS has had the address all the time."""

    async def test() -> None:
        dns = Dns()
        dns.addresses = {"127.0.0.1"}
        links = AgentLinks(lambda address, identity: AgentLink(address, identity=identity))
        async with Pods(tmp_path) as pods:
            agent = (await pods.start("127.0.0.1", "node-1")).agent
            async with running(links.follow, iter([pods.service(dns).changes()])):
                await until(lambda: "node-1" in links and links["node-1"].is_connected)
                agent._name = "node-2"
                agent.close()
                await until(lambda: "node-2" in links and links["node-2"].is_connected)
                assert set(links) == {"node-2"}
            await links.close()

    run(test)


def test_without_an_answer_of_the_dns_all_hosts_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        dns = Dns()
        async with Pods(tmp_path) as pods:
            await pods.start("127.0.0.1", "node-1")
            dns.addresses = {"127.0.0.1"}
            async with following(pods.service(dns)) as followed:
                assert await followed.next() == {"node-1": f"127.0.0.1:{pods.port}"}
                dns.addresses = None
                await dns.looked_up_again()
                dns.addresses = {"127.0.0.1"}
                await dns.looked_up_again()
                assert followed.is_quiet

    run(test)
    assert [r.message for r in caplog.records] == [
        f"`{SERVICE}` can't be resolved: Temporary failure in name resolution"
    ]


def test_an_agent_without_a_name_is_no_host_until_it_has_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        dns = Dns()
        dns.addresses = {"127.0.0.1", "127.0.0.2"}  # nobody listens at the second one
        async with Pods(tmp_path) as pods:
            await pods.start("127.0.0.1", "")
            async with following(pods.service(dns)) as followed:
                assert await followed.next() == {}
                await dns.looked_up_again()
                await pods.start("127.0.0.2", "node-2")
                assert await followed.next() == {"node-2": f"127.0.0.2:{pods.port}"}

    run(test)
    said = sorted(record.message for record in caplog.records if "is no host yet" in record.message)
    assert len(said) == 2, "each is said once"
    assert "it has no name; start it with `--name`" in said[0]
    assert "it can't be reached" in said[1]


def test_names_are_resolved_as_the_system_does() -> None:
    async def test() -> None:
        assert "127.0.0.1" in await resolved("localhost", 7000)
        with pytest.raises(OSError, match=r"."):
            await resolved("nobody.invalid", 7000)

    run(test)
