"""Measures an agent's devices for a server: by `proteus profile`, in a process and a workspace of their own.

The workspace is kept, so that a measurement that is broken off goes on where it was.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import msgspec

from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import Catalog, Family
from proteus_cli.domain.device import Device
from proteus_cli.errors import DeviceUnavailable
from proteus_cli.progress import Say
from proteus_cli.serving.devices.remote.channel.messages import MeasureDevices, MeasureOptions
from proteus_cli.serving.measuring_process import measured
from proteus_cli.store import Workspace, write_text
from proteus_cli.store.catalog_text import new_text

ALL = "all"
"""Instead of devices, in the options of a measurement."""

FindModel = Callable[[str], Path]


class Measurer:
    """Measures ``devices`` in the workspace ``root``."""

    def __init__(self, devices: Sequence[Device], root: Path) -> None:
        self._devices, self._workspace = devices, Workspace(root.absolute())
        self._one_at_a_time = asyncio.Lock()

    async def measure(
        self, command: MeasureDevices, used_now: Callable[[], Collection[str]], find_model: FindModel, say: Say
    ) -> bytes:
        """The profiles as JSON. ``find_model`` gives the file of a digest; ``say`` is told each line about progress.

        While servers use devices of the host, it runs only where these leave it time. Raises `EngineError`,
        `ArtefactError`, and `DeviceUnavailable` as `require_measurable` does.
        """
        require_measurable(command.options, used_now(), self._devices)
        async with self._one_at_a_time:
            used = used_now()
            require_measurable(command.options, used, self._devices)  # a server may have opened one meanwhile
            if used:
                say(f"servers use {', '.join(sorted(used))}: measured at low priority, in the time that they leave")
            return await self._measured(command, find_model, say, leaves_time=bool(used))

    async def _measured(self, command: MeasureDevices, find_model: FindModel, say: Say, *, leaves_time: bool) -> bytes:
        families = tuple(_with_files(family, find_model) for family in command.families)
        text = new_text(Catalog(FORMAT, families), made_by="proteus profile --cluster")
        write_text(self._workspace.catalog_path, text)
        write_text(self._workspace.root / "proteus.toml", self._settings())
        return await measured(self._workspace.root, _arguments(command.options), say, leaves_time=leaves_time)

    def _settings(self) -> str:
        """A `proteus.toml` in which devices have the same cores as here."""
        cores = ", ".join(str(list(device.cores)) for device in self._devices if device.kind == "cpu")
        return f"[devices]\ncpu = [{cores}]\n" if cores else ""


def require_measurable(options: MeasureOptions, used: Collection[str], devices: Sequence[Device]) -> None:
    """Raise `DeviceUnavailable` where servers use what is to be measured; ``all`` means any device.

    CPUs may be measured ``beside_servers``; a GPU has no priorities, so it would slow servers down.
    """
    wanted = None if options.devices == ALL else {name.strip() for name in options.devices.split(",")}
    cpus = {device.id for device in devices if device.kind == "cpu"} if options.beside_servers else set()
    found = sorted(device for device in used if (wanted is None or device in wanted) and device not in cpus)
    if found:
        raise DeviceUnavailable(
            f"A server uses {', '.join(found)}: to measure beside it would say nothing, and slow it down.",
            hint="stop that server, or measure other devices",
        )


def _with_files(family: Family, find_model: FindModel) -> Family:
    """With paths of files in place of digests, and without what measuring does not need."""
    variants = tuple(
        msgspec.structs.replace(each, onnx=str(find_model(each.onnx or "").absolute()), banned=(), pinned=())
        for each in family.variants
    )
    split = str(find_model(family.eval).absolute()) if family.eval is not None else None
    return msgspec.structs.replace(family, variants=variants, eval=split, labels=None, input=None)


def _arguments(options: MeasureOptions) -> list[str]:
    given = [f"--device={options.devices}", f"--max-batch={options.max_batch}", f"--max-slots={options.max_slots}"]
    given += [f"--budget={options.budget_s}s"] if options.budget_s is not None else []
    given += [f"--as-type={options.as_type}"] if options.as_type is not None else []
    given += ["--accept-noise"] if options.accepts_noise else []
    return [*given, "--force"] if options.force else given
