"""ONNX files that are read to be changed, and written."""

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import UninterpretedOption

from proteus_cli.errors import ArtefactError
from proteus_cli.store.onnx_files import content_of


def test_what_fits_into_no_file_is_refused(tmp_path: Path) -> None:
    """Protobuf refuses a message that lacks a field as it does one that is too large."""
    with pytest.raises(ArtefactError, match=r"Can't write what was made of `.*m\.onnx` into one file") as caught:
        content_of(UninterpretedOption.NamePart(), tmp_path / "m.onnx")
    assert "less than 2.0 GiB" in str(caught.value.hint)
