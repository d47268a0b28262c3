"""Settings: structs whose fields come from `proteus.toml`, the environment and the command line; and the devices.

A settings struct has an `Annotated` type with a `Setting` for each field. From it come the parser, the help, the
completion and the documentation. A field ``drain_timeout_s`` is called ``drain_timeout`` in the section of its command
in `proteus.toml`, ``PROTEUS_DRAIN_TIMEOUT`` in the environment, and ``drain-timeout`` on the command line.
"""

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import EnumType
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from proteus_cli.domain.base import Value, is_count, require
from proteus_cli.errors import UsageError
from proteus_cli.units import parse_duration, parse_share, parse_size, write_duration, write_size

FILE_NAME = "proteus.toml"
SettingsT = TypeVar("SettingsT", bound=msgspec.Struct)


class DeviceSettings(Value, frozen=True):
    """``cpu`` lists the cores of each CPU device, like ``[[0, 1], [2, 3]]``; None: groups of the default size."""

    cpu: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        cores = [core for group in self.cpu or () for core in group]
        require(all(map(is_count, cores)), "cores must not be negative")
        require(len(cores) == len(set(cores)), "a core may belong to one device only")
        require(all(self.cpu or ((0,),)), "a CPU device needs at least one core")


class Settings(Value, frozen=True):
    """The content of `proteus.toml`: the devices, and the options of commands by section."""

    devices: DeviceSettings = DeviceSettings()
    options: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - msgspec copies mutable defaults


def read_settings(workspace_dir: Path) -> Settings:
    """The settings of a workspace; the defaults if it has no `proteus.toml`. Raises `ArtefactError`."""
    from proteus_cli.input_files import SETTINGS, decoded, read_bytes  # noqa: PLC0415 - `--help` reads no file

    path = workspace_dir / FILE_NAME
    hint = "docs/formats.md describes proteus.toml"
    if not os.path.lexists(path):
        return Settings()
    return decoded(read_bytes(path, SETTINGS, hint=hint), _parse, f"`{path}` is not valid", hint=hint)


def _parse(content: bytes) -> Settings:
    from proteus_cli.input_files import decode_toml  # noqa: PLC0415

    sections = decode_toml(content, dict[str, Any])
    stray = next((name for name, section in sections.items() if not isinstance(section, dict)), None)
    require(stray is None, f"`{stray}` must be in a section, like `[plan]`")
    devices = msgspec.convert(sections.pop("devices", {}), DeviceSettings)
    return Settings(devices=devices, options=sections)


@dataclass(frozen=True, slots=True)
class Setting:
    """The help of a field, and how its values are written.

    ``parse``: text to value, may raise `UsageError`; None: msgspec reads the text as the type of the field. ``write``
    is the inverse. ``unset`` describes the effect of None. ``complete``: names for shells, or a function of what was
    typed. With ``is_list``, each text is an item of a tuple.
    """

    help: str
    metavar: str = ""
    parse: Callable[[str], Any] | None = None
    write: Callable[[Any], str] = str
    unset: str = ""
    complete: Sequence[str] | Callable[..., list[str]] = ()
    is_list: bool = False


duration = partial(Setting, metavar="DURATION", parse=parse_duration, write=write_duration)
size = partial(Setting, metavar="SIZE", parse=parse_size, write=write_size)
share = partial(Setting, metavar="SHARE", parse=parse_share)
path = partial(Setting, metavar="FILE", parse=Path)


def without_unit(name: str) -> str:
    """``drain_timeout_s`` → ``drain_timeout``: values are written with their unit."""
    return name.removesuffix("_s").removesuffix("_bytes")


def flag(name: str) -> str:
    """The option on the command line: ``max_body`` → ``--max-body``."""
    return f"--{name.replace('_', '-')}"


def environment(name: str) -> str:
    """The environment variable behind an option: ``max_body`` → ``PROTEUS_MAX_BODY``."""
    return f"PROTEUS_{name.upper()}"


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a settings struct, by the ``name`` that users write, with underscores."""

    name: str
    attribute: str
    type: Any
    setting: Setting
    default: Any

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a field that has few; empty for others."""
        of_type = get_args(self.type)[0]
        if of_type is bool:
            return ("true", "false")
        members = [member for part in (of_type, *get_args(of_type)) for member in _members(part)]
        return tuple(dict.fromkeys(members))

    @property
    def metavar(self) -> str:
        """What the field takes."""
        return self.setting.metavar or "|".join(self.choices)

    @property
    def shown_default(self) -> str:
        """The default as text."""
        if self.default is None or self.default == ():
            return self.setting.unset
        return str(self.default).lower() if isinstance(self.default, bool) else self.setting.write(self.default)

    def parsed(self, text: str) -> Any:
        """The value of a text. Raises `UsageError`."""
        if self.setting.parse is not None:
            return self.setting.parse(text)
        try:
            return msgspec.convert(text, self.type, strict=False)
        except msgspec.ValidationError as error:
            allowed = f"there are: {', '.join(self.choices)}" if self.choices else str(error)
            raise UsageError(f"`{text}` is no {self.metavar}.", hint=allowed) from None


def _members(kind: Any) -> Iterable[str]:
    """The names that a `Literal` or an enum allows."""
    if isinstance(kind, EnumType):
        return list(map(str, kind.__members__.values()))
    return [each for each in get_args(kind) if isinstance(each, str)]


def fields_of(kind: type[msgspec.Struct]) -> dict[str, Field]:
    """The fields of a settings struct by name."""
    found = {}
    for each in msgspec.structs.fields(kind):
        (setting,) = (part for part in get_args(each.type) if isinstance(part, Setting))
        found[each.encode_name] = Field(each.encode_name, each.name, each.type, setting, each.default)
    return found


def make_settings(
    kind: type[SettingsT],
    file: Mapping[str, Any],
    assignments: Sequence[str],
    options: Mapping[str, Any],
    environ: Mapping[str, str],
) -> SettingsT:
    """A settings struct: ``options`` > ``assignments`` (``name=value``) > environment > ``file`` > defaults.

    ``file`` is a section of `proteus.toml`. An option that is None was not given. Raises `UsageError` for an unknown
    name, with the nearest names, and for an invalid value, with the place where it was set.
    """
    known = fields_of(kind)
    found: dict[str, tuple[str, Sequence[str]]] = {}  # name → where it was set, and to which texts
    for name, value in file.items():
        found[name] = (f"{name} in {FILE_NAME}", _texts(value))
    for name in known:
        if text := environ.get(environment(name)):
            found[name] = (environment(name), [text])
    for name, texts in _assigned(assignments, known).items():
        found[name] = (f"--set {name.replace('_', '-')}", texts)
    for name, given in options.items():
        if given is not None and given != []:
            found[name] = (flag(name), given if isinstance(given, list) else _texts(given))
    return kind(**{known[name].attribute: _value(known[name], *source) for name, source in found.items()})


def _assigned(assignments: Sequence[str], known: Mapping[str, Field]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in assignments:
        written, equals, text = each.partition("=")
        name = written.strip().replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=4, cutoff=0.5) or list(known)
            raise UsageError(
                f"There is no setting `{written.strip()}`.",
                hint=f"nearest are: {', '.join(each.replace('_', '-') for each in near)}; docs/cli.md lists all",
            )
        if not equals:
            raise UsageError(
                f"`--set {each}` gives no value.",
                hint=f"write `--set {each}={known[name].metavar}`",
            )
        found.setdefault(name, []).append(text)
    return found


def _value(field: Field, where: str, texts: Sequence[str]) -> Any:
    try:
        if field.setting.is_list:
            return tuple(field.parsed(text) for text in texts)
        return field.parsed(texts[-1])
    except UsageError as error:
        raise UsageError(f"`{where}`: {error.message}", hint=error.hint) from None


def _texts(value: Any) -> list[str]:
    """A value of `proteus.toml` as if it came from the command line."""
    values = value if isinstance(value, list) else [value]
    return [str(each).lower() if isinstance(each, bool) else str(each) for each in values]
