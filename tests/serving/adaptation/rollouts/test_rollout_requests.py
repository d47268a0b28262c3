"""What a client may ask of version roll-outs."""

import pytest

from proteus_cli.errors import BadRequest
from proteus_cli.serving.adaptation.rollouts.requests import RolloutStart


@pytest.mark.parametrize("variant", ["", "l", "@2", "l@", "l@..", "l@../..", "l@a/b", "l@2\n", "l@m@2"])
def test_a_version_is_the_name_of_a_directory(variant: str) -> None:
    with pytest.raises(BadRequest, match="names no version of a variant: write "):
        RolloutStart("f", variant).plain_and_version()
    assert RolloutStart("f", "l@2").plain_and_version() == (("f", "l"), "2")
