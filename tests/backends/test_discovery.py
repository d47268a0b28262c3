"""Which devices there are, and which of them are meant."""

import sys

import pytest

from proteus_cli.backends import discovery
from proteus_cli.backends.affinity import pinned, usable_cores
from proteus_cli.backends.discovery import cpu_devices, default_groups, discover, select
from proteus_cli.backends.registry import open_backend
from proteus_cli.domain.device import Device
from proteus_cli.errors import BackendUnavailable, DeviceUnavailable, UsageError
from proteus_cli.settings import DeviceSettings

GPU = Device("gpu0", "tesla-t4", "gpu", "Tesla T4", 16 * 2**30)
CPUS = tuple(Device(f"cpu{n}", "cpu-1c", "cpu", "a CPU", 2**30, cores=(n,)) for n in range(2))


@pytest.mark.parametrize(
    ("cores", "groups"),
    [
        ((0,), ((0,),)),
        ((0, 1, 2, 3), ((0,), (1,), (2,), (3,))),
        ((0, 1, 2, 3, 4), ((0, 1, 2, 3), (4,))),
        (tuple(range(8)), ((0, 1, 2, 3), (4, 5, 6, 7))),
        ((3, 5), ((3,), (5,))),
    ],
)
def test_few_cores_are_devices_each_and_many_are_grouped(
    cores: tuple[int, ...], groups: tuple[tuple[int, ...], ...]
) -> None:
    assert default_groups(cores) == groups


def test_settings_may_group_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "usable_cores", lambda: (0, 1, 2))
    found = cpu_devices(DeviceSettings(cpu=((2,), (0, 1))))
    assert [(device.id, device.type, device.cores) for device in found] == [
        ("cpu0", "cpu-1c", (2,)),
        ("cpu1", "cpu-2c", (0, 1)),
    ]


def test_cores_that_this_process_may_not_use_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "usable_cores", lambda: (0, 2))
    with pytest.raises(UsageError, match=r"core 1 .* only cores 0, 2"):
        cpu_devices(DeviceSettings(cpu=((0, 1),)))


def test_this_machine_has_a_device_for_all_of_its_cores() -> None:
    found = [device for device in discover(DeviceSettings()) if device.kind == "cpu"]
    assert sorted(core for device in found for core in device.cores) == list(usable_cores())
    assert all(device.memory_bytes > 0 and device.name for device in found)


def test_devices_are_selected_by_id_once_and_in_order() -> None:
    assert select((*CPUS, GPU), "gpu0, cpu1,cpu1") == (GPU, CPUS[1])
    assert select((*CPUS, GPU), "all") == CPUS


@pytest.mark.parametrize("wanted", ["gpu1", "", "cpu0,", "cpu0 cpu1"])
def test_a_missing_device_is_refused_with_a_hint_of_those_that_are_here(wanted: str) -> None:
    with pytest.raises(DeviceUnavailable) as refused:
        select((*CPUS, GPU), wanted)
    assert refused.value.hint == "there are: cpu0, cpu1, gpu0"


def test_all_of_no_cpu_devices_is_refused() -> None:
    with pytest.raises(DeviceUnavailable):
        select((GPU,), "all")


def test_a_gpu_without_tensorrt_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendUnavailable, match="`tensorrt` can't be imported") as refused:
        open_backend(GPU)
    assert refused.value.exit_code == 4
    assert refused.value.hint == "pip install 'tensorrt>=10,<12' pycuda"


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "a100-sxm4-40gb-mig-1g.5gb"),
        ("NVIDIA GeForce GTX 1080 Ti", "geforce-gtx-1080-ti"),
        ("Fake CUDA device (host memory)", "fake-cuda-device-host-memory"),
        ("(?)", "gpu"),
    ],
)
def test_the_type_of_a_gpu_can_name_a_directory(name: str, type_: str) -> None:
    assert discovery._type_of(name) == type_


def test_without_a_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_driver", lambda: None)
    assert discovery.gpu_devices() == ()


def test_a_gpu_of_another_machine_is_not_described() -> None:
    with pytest.raises(DeviceUnavailable, match="`gpu0` is not a GPU of this machine"):
        discovery.describe_gpu(GPU)


def test_a_thread_is_on_the_cores_of_a_device_only_for_a_while() -> None:
    before = usable_cores()
    with pinned(before[:1]):
        assert usable_cores() == before[:1]
    assert usable_cores() == before
