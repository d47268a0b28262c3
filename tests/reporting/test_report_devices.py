import pytest
from synthetic_runs import answer, burst, reported

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.report import DeviceSummary
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
    assert found[0].summary(reported(ended)).answers == 2
    alone = reported([answer(0.0, device=device) for device in ("a/gpu0", "a/gpu1")])
    assert [group.label for group in grouped_devices([alone])] == [group.label for group in similar_devices([alone])]


def test_devices_of_a_host_have_a_name_of_their_own() -> None:
    ended = [answer(0.0, device=f"h{host}/v100-{number}") for host in (0, 1) for number in (0, 1)]
    assert [kind.label for kind in similar_devices([reported(ended)])] == ["2 × h0/v100", "2 × h1/v100"]


def test_a_group_of_devices_weighs_its_means_by_batches_and_answers() -> None:
    """4 answers in a batch of 4 at 1.0, and one in a batch of 1 at 0.5: 5 in 2 batches, (4 + 0.5) / 5 of the best."""
    run = reported([
        *(answer(0.0, variant="l", device="v100-0", batch=4) for _ in range(4)),
        answer(0.0, variant="s", device="v100-1", batch=1, accuracy=0.49),
    ])  # fmt: skip
    (kind,) = similar_devices([run])
    found = kind.summary(run)
    assert (found.answers, found.batches, found.mean_batch) == (5, 2, 2.5)
    assert found.relative_accuracy == pytest.approx(4.5 / 5)
    assert found.answers_by_variant == {"digits": {"l": 4, "s": 1}}
    assert list(variant_shares(found)) == [(VariantKey("digits", "l"), 0.8), (VariantKey("digits", "s"), 0.2)]


def test_a_group_that_a_run_does_not_have_has_no_answers_in_it() -> None:
    kind = similar_devices([burst("proteus")])[0]
    assert kind.summary(reported([])) == DeviceSummary(0, None, None, None, {})
