"""What a client may ask of version roll-outs."""

from contextlib import nullcontext

import msgspec
import pytest

from proteus_cli.errors import BadRequest
from proteus_cli.serving.adaptation.rollout_requests import RolloutStart


@pytest.mark.parametrize("variant", ["", "l", "@2", "l@", "l@..", "l@../..", "l@a/b", "l@2\n", "l@m@2"])
def test_a_version_is_the_name_of_a_directory(variant: str) -> None:
    with pytest.raises(BadRequest, match="names no version of a variant: write "):
        RolloutStart("f", variant).plain_and_version()
    assert RolloutStart("f", "l@2").plain_and_version() == (("f", "l"), "2")


def test_the_old_version_is_kept_for_30_days_at_most() -> None:
    """As the OpenAPI document says, and as a specification requires."""
    for window_s, is_taken in ((30 * 86_400, True), (1e308, False)):
        text = msgspec.json.encode({"family": "f", "variant": "l@2", "rollback_window_s": window_s})
        with nullcontext() if is_taken else pytest.raises(msgspec.ValidationError, match="rollback_window_s"):
            msgspec.json.decode(text, type=RolloutStart).specification("l", "l@2")
    _, parts = msgspec.json.schema_components([RolloutStart])
    assert parts["RolloutStart"]["properties"]["rollback_window_s"]["maximum"] == 2_592_000
