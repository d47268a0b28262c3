"""The files of the page: what is packaged is what was taken, tagged, and let in as it should be."""

import re
import subprocess
import sys
import zipfile
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import pytest

from proteus_cli.serving.rest.access import Access, KnownHosts
from proteus_cli.serving.rest.endpoints import AT, FILES, INDEX, TARGETS, read_site
from proteus_cli.serving.transport.tokens import Tokens

FOLDER = files("proteus_cli.serving.rest") / "site_files"


def test_what_comes_from_elsewhere_is_untouched() -> None:
    lines = (FOLDER / "vendor" / "VERSIONS").read_text().splitlines()
    taken = [line.split() for line in lines if not line.startswith("#")]
    names = {"dist/uPlot.iife.min.js": "uPlot.iife.min.js", "dist/uPlot.min.css": "uPlot.min.css"}
    assert {path for _, path, _ in taken} == {*names, "LICENSE"}
    for package, path, digest in taken:
        content = (FOLDER / "vendor" / names.get(path, "LICENSE.uPlot")).read_bytes()
        assert sha256(content).hexdigest() == digest
        if path.endswith(".js"):
            assert package.removeprefix("uplot@").encode() in content[:300]


def test_each_file_is_served_and_no_other_lies_there() -> None:
    there = {file.name for folder in (FOLDER, FOLDER / "vendor") for file in folder.iterdir() if file.is_file()}
    assert there - {"VERSIONS", "LICENSE.uPlot"} == set(FILES)


def test_pages_refer_only_to_files_that_are_there_and_to_nobody_else() -> None:
    """By address; imports of scripts; the policy would block what is inline, so there is nothing."""
    index = (FOLDER / INDEX).read_text()
    referred = set(re.findall(r'(?:src|href)="(/[^"]*)"', index))
    assert referred - {"/openapi.json", "/metrics"} <= {AT + name for name in FILES}
    assert not re.search(r"https?://|<style|\sstyle=|\son\w+=|<script>", index)
    for name in FILES:
        if not name.endswith(".js") or name.startswith("uPlot"):
            continue
        script = (FOLDER / name).read_text()
        assert {AT + imported for imported in re.findall(r'from "\./([^"]+)"', script)} <= TARGETS
        assert not re.search(r"eval\(|innerHTML|https?://(?!www\.w3\.org/2000/svg)", script)


def test_scripts_come_from_this_server_only() -> None:
    headers = read_site()[INDEX].headers.decode()
    (policy,) = re.findall(r"content-security-policy: (.*)\r\n", headers)
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    ("target", "is_open"),
    [
        (b"/", True), (b"/?token=no", True), (b"/ui/main.js", True), (b"/ui/main.js?1", True),
        (b"/v2/health/live?x", True),
        (b"/ui/", False), (b"/ui/other", False), (b"/ui/../v2", False), (b"/v2/proteus/history", False),
        (b"/v2/proteus/history?/", False), (b"//", False),
    ],
)  # fmt: skip
def test_the_page_needs_no_token_and_its_numbers_do(target: bytes, is_open: bool) -> None:  # noqa: FBT001
    access = Access(Tokens(["f00d" * 8]), KnownHosts(frozenset()))
    assert (access.refusal(b"GET", target, {}) is None) is is_open


def test_a_wheel_has_the_files(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    there = {name.rpartition("/")[2] for name in names if "/site_files/" in name}
    assert there >= {*FILES, "VERSIONS", "LICENSE.uPlot"}
    assert any("dist-info/licenses" in name and name.endswith("LICENSE.uPlot") for name in names)
