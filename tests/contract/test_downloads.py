"""What can't be had is a failure, and is asked for again the next time."""

import re
import subprocess
import zipfile
from pathlib import Path

import pytest
from contract import downloads, figures
from contract.cache_key import SOURCES, key


@pytest.fixture(autouse=True)
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(downloads, "BUILD", tmp_path / "build")
    monkeypatch.setattr(figures, "note", lambda *_: None)  # the report isn't about these
    return tmp_path / "build"


def test_a_package_that_pip_cannot_install_fails_each_time(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(subprocess.CalledProcessError):
            downloads.target("missing", str(tmp_path / "missing-1-py3-none-any.whl"))


def test_a_download_is_kept_until_another_version_is_asked_for(build: Path, tmp_path: Path) -> None:
    one, two = _package(tmp_path, "one"), _package(tmp_path, "two")
    place = downloads.target("kept", str(one))
    (place / "mark").touch()
    assert (downloads.target("kept", str(one)) / "mark").exists()
    assert place == build / "kept"
    assert not (downloads.target("kept", str(two)) / "mark").exists()
    assert (place / "two.py").exists()


def test_the_key_of_the_cache_changes_with_its_sources(tmp_path: Path) -> None:
    (tmp_path / "versions.py").write_text("RTX = 1")
    before = key([tmp_path / "versions.py"])
    assert key([tmp_path / "versions.py"]) == before
    (tmp_path / "versions.py").write_text("RTX = 2")
    assert key([tmp_path / "versions.py"]) != before


def test_the_key_covers_all_files_that_name_a_version() -> None:
    """Each module of the contract in which a version of a distribution is pinned."""
    pins = re.compile(r"==\d|^RTX = |Release\(", re.MULTILINE)
    here = Path(downloads.__file__).parent
    pinning = {path for path in here.rglob("*.py") if pins.search(path.read_text("utf-8"))} - {Path(__file__)}
    assert pinning <= set(SOURCES)


def _package(where: Path, name: str) -> Path:
    """A wheel with one module, built of nothing but a zip file."""
    wheel = where / f"{name}-1-py3-none-any.whl"
    info = f"{name}-1.dist-info"
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in {**files, f"{info}/RECORD": "".join(f"{path},,\n" for path in files)}.items():
            archive.writestr(path, content)
    return wheel
