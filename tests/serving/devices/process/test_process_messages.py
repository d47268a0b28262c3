"""What the server and the process of a device send each other."""

import pytest

from proteus_cli.errors import ArtefactError, DeviceUnavailable, EngineError, ProteusError
from proteus_cli.serving.devices.process.messages import SentError

KINDS = [ProteusError, ArtefactError, DeviceUnavailable, *DeviceUnavailable.__subclasses__()]


@pytest.mark.parametrize("kind", [*KINDS, EngineError, *EngineError.__subclasses__()])
def test_an_error_has_its_class_and_its_hint_on_the_other_side(kind: type[ProteusError]) -> None:
    error = SentError.of(kind("it is cut off", hint="make it anew")).error()
    assert type(error) is kind
    assert isinstance(error, ProteusError)
    assert (error.message, error.hint) == ("it is cut off", "make it anew")


def test_any_other_error_is_quoted() -> None:
    error = SentError.of(KeyError("x")).error()
    assert type(error) is RuntimeError
    assert str(error) == "KeyError('x')"
