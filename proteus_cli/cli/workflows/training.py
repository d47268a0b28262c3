"""Variants trained and measured on a device of this machine, for `proteus task`."""

from proteus_cli.backends.base import Backend, BuildContext
from proteus_cli.backends.discovery import discover, select
from proteus_cli.backends.registry import open_backend
from proteus_cli.cli import console
from proteus_cli.domain.device import Device
from proteus_cli.errors import UsageError
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace
from proteus_cli.variants.training.processes import Limits
from proteus_cli.variants.training.retraining import KnownTask, Retraining, retrain


def retrained(
    known: KnownTask, device: str | None, limits: Limits, *, max_loss: float, keeps_split: bool, keeps_catalog: bool
) -> Retraining:
    """`retrain` on the device that `opened_cpu` picks, with its progress on the terminal. Raises as both do."""
    on = opened_cpu(known.workspace, device)
    with console.progress(f"training {known.family.name}") as advance:
        return retrain(
            known, *on, limits, max_loss=max_loss, keeps_split=keeps_split, keeps_catalog=keeps_catalog,
            advance=advance, say=console.say,
        )  # fmt: skip


def opened_cpu(workspace: Workspace, name: str | None) -> tuple[Device, Backend]:
    """The first CPU device among those ``name`` stands for, of all without a name, and its backend, opened.

    Raises `UsageError` where none is a CPU, and `DeviceUnavailable` where there is no such device.
    """
    devices = select(discover(read_settings(workspace.root).devices), name or "all")
    device = next((device for device in devices if device.kind == "cpu"), None)
    if device is None:
        raise UsageError("These models run on CPUs only.", hint="name a CPU device: `--device cpu0`")
    return device, open_backend(device, BuildContext(workspace.built_dir, say=console.say))
