from synthetic_runs import answer, reported

from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.reporting.device_groups import grouped_devices, similar_devices, variant_shares


def test_devices_of_one_base_name_are_similar_and_real_ones_are_alone() -> None:
    ended = [answer(0.0, device=device) for device in ("v100-1", "cpu0", "v100-0", "cpu1")]
    found = similar_devices([reported(ended), reported([answer(0.0, device="v100-7")])])
    assert [(kind.label, kind.devices) for kind in found] == [
        ("3 × v100", ("v100-1", "v100-0", "v100-7")),
        ("cpu0", ("cpu0",)),
        ("cpu1", ("cpu1",)),
    ]


def test_devices_of_several_hosts_are_grouped_by_host() -> None:
    ended = [answer(0.0, device=device) for device in ("a/gpu0", "b/gpu0", "a/gpu1", "cpu0")]
    found = grouped_devices([reported(ended)])
    assert [(group.label, group.devices) for group in found] == [
        ("host a", ("a/gpu0", "a/gpu1")),
        ("host b", ("b/gpu0",)),
        ("this machine", ("cpu0",)),
    ]
    alone = reported([answer(0.0, device=device) for device in ("a/gpu0", "a/gpu1")])
    assert [group.label for group in grouped_devices([alone])] == [group.label for group in similar_devices([alone])]


def test_devices_of_a_host_have_a_name_of_their_own() -> None:
    ended = [answer(0.0, device=f"h{host}/v100-{number}") for host in (0, 1) for number in (0, 1)]
    assert [kind.label for kind in similar_devices([reported(ended)])] == ["2 × h0/v100", "2 × h1/v100"]


def test_variants_of_a_device_have_shares_of_its_answers_the_busiest_first() -> None:
    run = reported([answer(0.0, variant=variant, device="cpu0") for variant in "lllls"])
    assert list(variant_shares(run.devices["cpu0"])) == [
        (VariantKey("digits", "l"), 0.8),
        (VariantKey("digits", "s"), 0.2),
    ]
