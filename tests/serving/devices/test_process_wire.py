"""What the server and the process of a device say to each other."""

import pytest

from proteus_cli.errors import DeviceUnavailable, EngineError, ProteusError
from proteus_cli.serving.devices.process.wire import heard, told


@pytest.mark.parametrize("kind", [EngineError, *EngineError.__subclasses__(), DeviceUnavailable])
def test_an_error_that_is_told_is_of_its_kind_on_the_other_side(kind: type[ProteusError]) -> None:
    error = heard(told(kind("it is cut off", hint="make it anew")))
    assert type(error) is kind
    assert (error.message, error.hint) == ("it is cut off", "make it anew")


def test_a_bug_is_quoted() -> None:
    error = heard(told(KeyError("x")))
    assert type(error) is RuntimeError
    assert str(error) == "KeyError('x')"
