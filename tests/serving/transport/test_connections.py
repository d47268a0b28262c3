"""When connections are checked, drained and aborted, on a clock that jumps."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from virtual_loop import VirtualLoop

from proteus_cli.serving.transport.connections import CHECK_EVERY_S, GRACE_S, MAX_REFUSED_OPEN, Connections, client_of

MOST = 3


class NotedConnection:
    """Notes what it is asked for, and when; it is ``gone_s`` after it was told to drain, or else stays."""

    def __init__(
        self,
        connections: Connections,
        gone_s: float | None = None,
        *,
        is_broken: bool = False,
        protocol: str = "http",
        client: str = "one",
    ) -> None:
        self._connections, self._gone_s, self._is_broken = connections, gone_s, is_broken
        self.checked_s, self.drained_s, self.aborted_s = list[float](), list[float](), list[float]()
        self.is_admitted = connections.admit(self, protocol, client)

    def check_timeouts(self, now_s: float) -> None:
        self.checked_s.append(now_s)
        if self._is_broken:
            raise ZeroDivisionError

    def drain(self) -> None:
        loop = asyncio.get_running_loop()
        self.drained_s.append(loop.time())
        if self._gone_s is not None:
            loop.call_later(self._gone_s, self._connections.remove, self)

    def abort(self) -> None:
        self.aborted_s.append(asyncio.get_running_loop().time())
        self._connections.remove(self)


def run(story: Callable[[Connections], Awaitable[None]]) -> None:
    async def in_loop() -> None:
        await story(Connections(max_connections=MOST, max_body_bytes=0))

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(in_loop())


def test_all_connections_are_checked_each_second_and_a_broken_one_is_aborted() -> None:
    async def story(connections: Connections) -> None:
        broken, sound = NotedConnection(connections, is_broken=True), NotedConnection(connections)
        watching = asyncio.create_task(connections.watch_timeouts())
        await asyncio.sleep(2.5 * CHECK_EVERY_S)
        watching.cancel()
        assert sound.checked_s == [CHECK_EVERY_S, 2 * CHECK_EVERY_S]
        assert connections.now_s == 2 * CHECK_EVERY_S
        assert broken.checked_s == broken.aborted_s == [CHECK_EVERY_S]
        assert sound.aborted_s == []

    run(story)


def test_a_connection_that_is_refused_is_checked_until_it_has_gone() -> None:
    async def story(connections: Connections) -> None:
        others = [NotedConnection(connections) for _ in range(MOST)]
        refused = NotedConnection(connections)
        assert ([each.is_admitted for each in others], refused.is_admitted) == ([True] * MOST, False)
        connections.check_timeouts(1.0)
        connections.remove(refused)
        connections.check_timeouts(2.0)
        assert refused.checked_s == [1.0]
        assert others[0].checked_s == [1.0, 2.0]

    run(story)


def test_a_client_and_a_protocol_have_a_share_of_connections_each() -> None:
    async def story(_: Connections) -> None:
        connections = Connections(max_connections=4, max_body_bytes=0)
        first = [NotedConnection(connections, client="one") for _ in range(4)]
        assert [each.is_admitted for each in first] == [True, True, True, False]
        assert NotedConnection(connections, client="two").is_admitted
        assert not NotedConnection(connections, client="two").is_admitted
        assert NotedConnection(connections, protocol="grpc").is_admitted
        connections.remove(first[0])
        assert NotedConnection(connections, client="one").is_admitted

    run(story)


def test_the_oldest_of_too_many_refused_connections_is_aborted() -> None:
    async def story(connections: Connections) -> None:
        for _ in range(MOST):
            NotedConnection(connections)
        refused = [NotedConnection(connections) for _ in range(MAX_REFUSED_OPEN + 1)]
        assert [len(each.aborted_s) for each in refused] == [1] + [0] * MAX_REFUSED_OPEN

    run(story)


def test_connections_are_drained_after_a_grace_and_the_end_comes_with_the_last() -> None:
    async def story(connections: Connections) -> None:
        quick, slow = NotedConnection(connections, 0.0), NotedConnection(connections, 3.0)
        closing = asyncio.create_task(connections.close(5.0))
        await asyncio.sleep(0.99 * GRACE_S)
        assert connections.is_draining
        assert quick.drained_s == slow.drained_s == []
        await closing
        assert quick.drained_s == slow.drained_s == [GRACE_S]
        assert quick.aborted_s == slow.aborted_s == []
        assert GRACE_S + 3.0 <= asyncio.get_running_loop().time() < GRACE_S + 3.02

    run(story)


def test_a_connection_that_does_not_end_in_time_is_aborted() -> None:
    async def story(connections: Connections) -> None:
        stays = NotedConnection(connections)
        await connections.close(5.0)
        (aborted_s,) = stays.aborted_s
        assert 5.0 <= aborted_s < 5.02
        assert len(connections) == 0

    run(story)


@pytest.mark.parametrize(
    ("peername", "client"),
    [
        (("192.0.2.7", 5), "192.0.2.7"),
        (("::ffff:192.0.2.7", 5, 0, 0), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 5, 0, 0), "2001:0db8:0001:0002"),
        (("fe80::1%eth0", 5, 0, 2), "fe80:0000:0000:0000"),
        (None, ""),
    ],
)
def test_a_client_is_an_ipv4_address_or_an_ipv6_network(peername: tuple[str, int] | None, client: str) -> None:
    assert client_of(asyncio.Transport({"peername": peername})) == client
