"""A session ends after so many looks in vain, and by nothing else."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from proteus_cli.domain.cluster import MAX_SILENT
from proteus_cli.serving.devices.remote.sessions.signs_of_life import MAX_SILENT_MEASURING, SignsOfLife


class Silent:
    """A session that is told nothing but what a test says."""

    def __init__(self, *, is_measuring: bool = False) -> None:
        self.channel = SimpleNamespace(bytes_received=0)
        self.is_measuring = is_measuring
        self.ends: list[str] = []
        self.ended = self.ends.append

    def signs(self) -> SignsOfLife:
        return SignsOfLife(cast("Any", self))


@pytest.mark.parametrize(
    ("session", "allowed"), [(Silent(), MAX_SILENT), (Silent(is_measuring=True), MAX_SILENT_MEASURING)]
)
def test_a_host_is_dead_after_so_many_looks_in_vain(session: Silent, allowed: int) -> None:
    signs = session.signs()
    for _ in range(allowed):  # the first counts for nothing
        signs.look()
    assert not session.ends
    signs.look()
    assert session.ends == [f"nothing came from it for {allowed * 100} ms"]


def test_anything_that_comes_is_a_sign_of_life() -> None:
    session = Silent()
    signs = session.signs()
    for _ in range(20):
        session.channel.bytes_received += 1
        for _ in range(MAX_SILENT):
            signs.look()
    assert not session.ends
