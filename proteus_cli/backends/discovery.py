"""The devices of this machine: groups of CPU cores, and GPUs as the CUDA driver lists them."""

import contextlib
import ctypes
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

from proteus_cli.backends.affinity import usable_cores
from proteus_cli.backends.tensorrt.records import Gpu
from proteus_cli.domain.catalog import is_name
from proteus_cli.domain.device import Device, GpuFacts
from proteus_cli.errors import DeviceUnavailable, UsageError
from proteus_cli.settings import DeviceSettings

MAX_SINGLE_CORES = 4
"""Up to this number of cores, each is a device of its own."""

CORES_PER_GROUP = 4
"""With more cores, this many make one device."""

VISIBLE = "CUDA_VISIBLE_DEVICES"
MIG = " MIG "  # part of the name of a slice: "NVIDIA A100-SXM4-40GB MIG 1g.5gb"

_CUDA_SUCCESS = 0
_NAME_BYTES = 256
_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76  # CU_DEVICE_ATTRIBUTE_…, which never change
_KERNEL_MODULE = Path("/sys/module/nvidia/version")


def discover(settings: DeviceSettings) -> tuple[Device, ...]:
    """All devices: groups of the cores that this process may use, then CUDA devices in the driver's order."""
    return (*cpu_devices(settings), *gpu_devices())


def select(devices: Sequence[Device], wanted: str) -> tuple[Device, ...]:
    """The devices of a comma-separated list of ids; ``all`` means all CPU devices. Raises `DeviceUnavailable`."""
    if wanted == "all":
        cpus = tuple(device for device in devices if device.kind == "cpu")
        if not cpus:
            raise DeviceUnavailable("No CPU device here.", hint="`cpu` in [devices] of proteus.toml names their cores")
        return cpus
    by_id = {device.id: device for device in devices}
    chosen = []
    for name in dict.fromkeys(part.strip() for part in wanted.split(",")):
        if name not in by_id:
            raise DeviceUnavailable(f"No device `{name}` here.", hint=f"there are: {', '.join(by_id)}")
        chosen.append(by_id[name])
    return tuple(chosen)


def cpu_devices(settings: DeviceSettings) -> tuple[Device, ...]:
    """CPU devices as `proteus.toml` groups the cores, else as `default_groups` does.

    Raises `UsageError` where `proteus.toml` names cores that this process may not use.
    """
    usable = usable_cores()
    groups = settings.cpu if settings.cpu is not None else default_groups(usable)
    listed = ", ".join(map(str, usable))
    for core in (core for group in groups for core in group):
        if core not in usable:
            raise UsageError(
                f"`proteus.toml` gives core {core} to a device, but this process may use only cores {listed}.",
                hint="change `cpu` in [devices]",
            )
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return tuple(
        Device(
            id=f"cpu{index}",
            type=f"cpu-{len(group)}c",
            kind="cpu",
            name=cpu_name(),
            memory_bytes=memory_bytes // len(groups),
            cores=tuple(group),
        )
        for index, group in enumerate(groups)
    )


def default_groups(cores: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """One core each up to `MAX_SINGLE_CORES`, else groups of `CORES_PER_GROUP`; the last may have fewer."""
    if len(cores) <= MAX_SINGLE_CORES:
        return tuple((core,) for core in cores)
    groups = [tuple(cores[i : i + CORES_PER_GROUP]) for i in range(0, len(cores), CORES_PER_GROUP)]
    return tuple(groups)


def gpu_devices() -> tuple[Device, ...]:
    """CUDA devices as the driver lists them; none where there is no driver.

    The driver obeys `CUDA_VISIBLE_DEVICES`, and so do the ordinals: the listed indices and UUIDs, in order, up to the
    first that it does not know.
    """
    cuda = _driver()
    count = ctypes.c_int()
    if cuda is None or cuda.cuDeviceGetCount(ctypes.byref(count)) != _CUDA_SUCCESS:
        return ()
    return tuple(_gpu(cuda, ordinal) for ordinal in range(count.value))


def ordinal_of(device: Device) -> int:
    """The ordinal that CUDA has for a GPU."""
    return int(device.id.removeprefix("gpu"))


def describe_gpu(device: Device) -> Gpu:
    """The properties of a GPU that its engines are built for. Raises `DeviceUnavailable` for one that is not here."""
    facts = device.gpu
    if facts is None:
        raise DeviceUnavailable(
            f"`{device.id}` is not a GPU of this machine.", hint="`proteus devices` lists those that are here"
        )
    return Gpu(device.name, facts.compute_capability, facts.multiprocessors, facts.driver)


def has_cuda_driver() -> bool:
    """Whether the CUDA driver is installed, with or without devices."""
    return _library() is not None


def _library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def _driver() -> ctypes.CDLL | None:
    """The CUDA driver, initialised; None where it is missing, does not work, or shows no device."""
    cuda = _library()
    return cuda if cuda is not None and cuda.cuInit(0) == _CUDA_SUCCESS else None


def _gpu(cuda: ctypes.CDLL, ordinal: int) -> Device:
    handle, name, memory = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
    for status in (
        cuda.cuDeviceGet(ctypes.byref(handle), ordinal),
        cuda.cuDeviceGetName(name, _NAME_BYTES, handle),
        cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), handle),
    ):
        _require(status, f"gpu{ordinal}")
    label = name.value.decode(errors="replace")
    facts = _facts(cuda, handle, label, f"gpu{ordinal}")
    if facts.is_slice and MIG not in label:  # else the name says which
        label = f"{label} MIG {facts.multiprocessors}sm {memory.value // 2**30}gb"
    return Device(f"gpu{ordinal}", _type_of(label), "gpu", label, memory_bytes=memory.value, gpu=facts)


def _facts(cuda: ctypes.CDLL, handle: ctypes.c_int, name: str, device: str) -> GpuFacts:
    major, minor, multiprocessors = (
        _attribute(cuda, handle, which, device) for which in (_MAJOR, _MINOR, _MULTIPROCESSORS)
    )
    whole, own = _uuid(cuda, "cuDeviceGetUuid", handle), _uuid(cuda, "cuDeviceGetUuid_v2", handle)
    is_slice = MIG in name or bool(own and whole and own != whole)  # the first call has the UUID of the whole GPU
    uuid = f"{'MIG' if is_slice else 'GPU'}-{own or whole}" if own or whole else ""
    return GpuFacts(f"{major}.{minor}", multiprocessors, _driver_version(cuda, device), uuid, is_slice)


def _uuid(cuda: ctypes.CDLL, call: str, handle: ctypes.c_int) -> str:
    """A UUID of a device; empty where the driver lacks the call, or has no answer."""
    found = (ctypes.c_ubyte * 16)()
    function: Callable[..., int] | None = getattr(cuda, call, None)
    if function is None or function(ctypes.byref(found), handle) != _CUDA_SUCCESS:
        return ""
    return str(UUID(bytes=bytes(found)))


def _type_of(label: str) -> str:
    """``NVIDIA A100-SXM4-40GB`` → ``a100-sxm4-40gb``: the name of a directory, so other characters become dashes."""
    words = "".join(c if is_name(f"a{c}") else " " for c in label.lower().replace("nvidia", "")).split()
    return "-".join(words) or "gpu"


def _attribute(cuda: ctypes.CDLL, handle: ctypes.c_int, which: int, device: str) -> int:
    value = ctypes.c_int()
    _require(cuda.cuDeviceGetAttribute(ctypes.byref(value), which, handle), device)
    return value.value


def _driver_version(cuda: ctypes.CDLL, device: str) -> str:
    """The version of the kernel module, like ``570.86``; where that is hidden, the driver's CUDA version."""
    with contextlib.suppress(OSError):
        return _KERNEL_MODULE.read_text(encoding="ascii").strip()
    version = ctypes.c_int()
    _require(cuda.cuDriverGetVersion(ctypes.byref(version)), device)
    return f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"


def _require(status: int, device: str) -> None:
    if status != _CUDA_SUCCESS:
        raise DeviceUnavailable(f"The CUDA driver can't describe {device} (error {status}).")


def cpu_name() -> str:
    """The name of the processor; its architecture where the system does not say more."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()
