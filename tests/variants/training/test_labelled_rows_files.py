"""Files of labelled rows that are none."""

from pathlib import Path

import pytest

from proteus_cli.errors import ArtefactError
from proteus_cli.variants.training.arrays import read_labelled


@pytest.mark.parametrize(("name", "said"), [("rows.csv", "CSV is not read"), ("rows.npz", "it is not an .npz file")])
def test_rows_that_are_no_npz_are_said_to_be_none(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_text("1,2,0\n")
    with pytest.raises(ArtefactError, match=said):
        read_labelled(tmp_path / name)
