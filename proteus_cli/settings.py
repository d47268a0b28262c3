"""`proteus.toml`: which cores make a device, and defaults for the options of the commands."""

import os
from pathlib import Path
from typing import Any

import msgspec

from proteus_cli.domain.base import Value, is_count, require
from proteus_cli.input_files import SETTINGS, decode_toml, decoded, read_bytes

FILE_NAME = "proteus.toml"


class DeviceSettings(Value, frozen=True):
    """``cpu`` lists the cores of each CPU device, like ``[[0, 1], [2, 3]]``; None: groups of the default size."""

    cpu: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        cores = [core for group in self.cpu or () for core in group]
        require(all(map(is_count, cores)), "cores must not be negative")
        require(len(cores) == len(set(cores)), "a core may belong to one device only")
        require(all(self.cpu or ((0,),)), "a CPU device needs at least one core")


class Settings(Value, frozen=True):
    """The devices, and by command the defaults of its options."""

    devices: DeviceSettings = DeviceSettings()
    options: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - msgspec copies mutable defaults


def read_settings(workspace_dir: Path) -> Settings:
    """The settings of a workspace; the defaults if it has no `proteus.toml`. Raises `ArtefactError`."""
    path = workspace_dir / FILE_NAME
    hint = "docs/formats.md describes proteus.toml"
    if not os.path.lexists(path):
        return Settings()
    return decoded(read_bytes(path, SETTINGS, hint=hint), _parse, f"`{path}` is not valid", hint=hint)


def _parse(content: bytes) -> Settings:
    sections = decode_toml(content, dict[str, Any])
    stray = next((name for name, section in sections.items() if not isinstance(section, dict)), None)
    require(stray is None, f"`{stray}` must be in a section, like `[plan]`")
    devices = msgspec.convert(sections.pop("devices", {}), DeviceSettings)
    return Settings(devices=devices, options=sections)
