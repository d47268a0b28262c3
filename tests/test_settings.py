from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.settings import (
    DeviceSettings,
    Setting,
    Settings,
    duration,
    fields_of,
    make_settings,
    read_settings,
    size,
    without_unit,
)


def read(directory: Path, text: str) -> Settings:
    (directory / "proteus.toml").write_text(text)
    return read_settings(directory)


def refused(directory: Path, text: str) -> str:
    with pytest.raises(ArtefactError, match=r"proteus\.toml") as caught:
        read(directory, text)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value.message


def test_without_a_file_everything_is_as_by_default(tmp_path: Path) -> None:
    assert read_settings(tmp_path) == Settings(devices=DeviceSettings(cpu=None), options={})
    assert read_settings(tmp_path / "nowhere") == Settings()


def test_devices_are_cut_and_the_other_sections_are_options_by_command(tmp_path: Path) -> None:
    settings = read(tmp_path, "[devices]\ncpu = [[0, 1], [2]]\n[plan]\nheadroom = 1.3\n[serve]\nport = 9000\n")
    assert settings.devices.cpu == ((0, 1), (2,))
    assert settings.options == {"plan": {"headroom": 1.3}, "serve": {"port": 9000}}


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Settings()


def test_broken_toml_says_where(tmp_path: Path) -> None:
    """The array of line 2 is still open where line 3 starts."""
    assert "line 3" in refused(tmp_path, "[devices]\ncpu = [[0, 1]\n[plan]\n")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[devices]\ncpu = [[0, 1], [1, 2]]\n", "one device only"),
        ("[devices]\ncpu = [[0, 0]]\n", "one device only"),
        ("[devices]\ncpu = [[0], []]\n", "at least one core"),
        ("[devices]\ncpu = [[-1]]\n", "negative"),
        ("[devices]\ncpu = [0, 1]\n", "cpu"),
        ("[devices]\ncpu = [['0']]\n", "cpu"),
        ("[devices]\ngpu = [[0]]\n", "gpu"),
        ("port = 8000\n", "`port` must be in a section"),
        ("devices = 3\n", "`devices` must be in a section"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_reason(text: str, problem: str, tmp_path: Path) -> None:
    assert problem in refused(tmp_path, text)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "proteus.toml").write_bytes(b"[plan]\nx = '\xff\xfe'\n")
    with pytest.raises(ArtefactError, match=r"proteus\.toml"):
        read_settings(tmp_path)


def test_a_directory_in_the_place_of_the_file_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "proteus.toml").mkdir()
    with pytest.raises(ArtefactError, match="is a directory"):
        read_settings(tmp_path)


# --- settings structs


class Example(msgspec.Struct, frozen=True, kw_only=True, rename=without_unit):
    """One field of each kind."""

    port: Annotated[int, msgspec.Meta(ge=0, le=65535), Setting("A port.", "PORT")] = 8000
    wait_s: Annotated[float, duration("A time.")] = 90.0
    space_bytes: Annotated[int, size("A size.")] = 2**20
    mode: Annotated[Literal["fast", "slow"], Setting("A choice.")] = "fast"
    is_on: Annotated[bool, Setting("A switch.")] = True
    names: Annotated[tuple[str, ...], Setting("A list.", "NAME", parse=str, is_list=True, unset="none")] = ()


def example(
    file: dict[str, Any] | None = None,
    assignments: tuple[str, ...] = (),
    environ: dict[str, str] | None = None,
    **options: Any,
) -> Example:
    return make_settings(Example, file or {}, assignments, options, environ or {})


def test_a_setting_comes_from_an_option_before_an_assignment_before_the_environment_before_the_file() -> None:
    sources: dict[str, Any] = {"file": {"port": 1}}
    assert (example().port, example(**sources).port) == (8000, 1)
    sources["environ"] = {"PROTEUS_PORT": "2"}
    assert example(**sources).port == 2
    sources["assignments"] = ("port=3",)
    assert example(**sources).port == 3
    assert example(**sources, port="4").port == 4


def test_values_are_written_with_their_units() -> None:
    made = example(
        {"wait": "2min", "names": ["a", "b"]}, ("space=4KiB", "mode=slow", "is-on=false"), {"PROTEUS_PORT": "0"}
    )
    assert made == Example(port=0, wait_s=120.0, space_bytes=4096, mode="slow", is_on=False, names=("a", "b"))
    assert example(assignments=("names=a", "names=b")).names == ("a", "b")


def test_a_default_is_shown_as_it_is_written() -> None:
    shown = {name: (field.metavar, field.shown_default) for name, field in fields_of(Example).items()}
    assert shown == {
        "port": ("PORT", "8000"),
        "wait": ("DURATION", "90s"),
        "space": ("SIZE", "1MiB"),
        "mode": ("fast|slow", "fast"),
        "is_on": ("true|false", "true"),
        "names": ("NAME", "none"),
    }


@pytest.mark.parametrize(
    ("sources", "problem", "hint"),
    [
        ({"assignments": ("prot=1",)}, "no setting `prot`", "port"),
        ({"assignments": ("zzz=1",)}, "no setting `zzz`", "is-on"),
        ({"assignments": ("mode",)}, "`--set mode` gives no value", "mode=fast|slow"),
        ({"assignments": ("mode=odd",)}, "`--set mode`: `odd` is no fast|slow", "fast, slow"),
        ({"assignments": ("port=70000",)}, "`--set port`: `70000` is no PORT", "65535"),
        ({"port": "http"}, "`--port`: `http` is no PORT", ""),
        ({"environ": {"PROTEUS_WAIT": "soon"}}, "`PROTEUS_WAIT`: `soon` is not a duration", "50ms"),
        ({"file": {"wait": 5}}, "`wait in proteus.toml`: The duration `5` has no unit", "50ms"),
        ({"is_on": "perhaps"}, "`--is-on`: `perhaps` is no true|false", "true, false"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_with_its_place(
    sources: dict[str, Any], problem: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        example(**sources)
    assert problem in caught.value.message
    assert hint in caught.value.hint
