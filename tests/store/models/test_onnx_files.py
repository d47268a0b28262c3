"""ONNX files that are read to be changed, and written."""

import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from google.protobuf.descriptor_pb2 import UninterpretedOption

from proteus_cli.errors import ArtefactError
from proteus_cli.store.models.onnx_files import content_of, read_graph


def test_what_fits_into_no_file_is_refused(tmp_path: Path) -> None:
    """Protobuf refuses a message that lacks a field as it does one that is too large."""
    with pytest.raises(ArtefactError, match=r"Can't write what was made of `.*m\.onnx` into one file") as caught:
        content_of(UninterpretedOption.NamePart(), tmp_path / "m.onnx")
    assert "less than 2.0 GiB" in str(caught.value.hint)


def test_the_command_that_a_hint_names_tells_more(tmp_path: Path) -> None:
    broken = tmp_path / "m.onnx"
    broken.write_bytes(b"\x08\x01not a model")
    with pytest.raises(ArtefactError) as caught:
        read_graph(onnx, broken)
    assert "`check-model FILE`" in caught.value.hint
    check = shutil.which("check-model", path=Path(sys.executable).parent)
    assert check is not None
    done = subprocess.run([check, broken], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Error parsing message" in done.stderr
