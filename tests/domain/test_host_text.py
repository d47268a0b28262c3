import pytest

from proteus_cli.domain.cluster import short_names, whereabouts

A, B = [f"a/gpu{number}" for number in range(8)], [f"b/gpu{number}" for number in range(8)]


@pytest.mark.parametrize(
    ("devices", "text"),
    [
        (A[:1], "a"),
        (A, "a"),
        (["cpu0"], "this machine"),
        ([*A[:2], *B[:2]], "2 each on a, b"),
        ([*A[:3], *B[:1]], "3 on a, 1 on b"),
        ([*A[:3], "cpu0"], "3 on a, 1 on this machine"),
        ([f"n{host}/gpu{gpu}" for host in range(100) for gpu in range(8)], "8 each on 100 hosts"),
        ([*A, *(f"n{host}/gpu0" for host in range(4))], "5 hosts"),
    ],
)
def test_where_devices_are(devices: list[str], text: str) -> None:
    assert whereabouts(devices) == text


@pytest.mark.parametrize(
    ("devices", "names"),
    [
        ([*A, "cpu0"], ["host a", "cpu0"]),
        ([*A, *B[:1]], ["host a", "b/gpu0"]),
        (A[1:], A[1:]),
        (["c/cpu0"], ["c/cpu0"]),  # its only device, which may be lost alone
        ([], []),
    ],
)
def test_a_host_is_named_where_all_of_its_devices_are_meant(devices: list[str], names: list[str]) -> None:
    assert short_names(devices, [*A, *B, "cpu0", "c/cpu0"]) == names
