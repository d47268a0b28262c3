from pathlib import Path

import pytest

from proteus_cli.errors import ArtefactError
from proteus_cli.settings import DeviceSettings, Settings, read_settings


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
