"""The hand-written stubs of pycuda promise nothing that the real module doesn't have."""

import json
import subprocess
import sys
from typing import Any

import pytest
from contract import figures
from contract.api.boost import Entry, Parameter, Signature, entries, fits, signatures
from contract.api.checking import HAND_WRITTEN
from contract.figures import ContractPart
from contract.runtime.toolchain import environment

pytestmark = pytest.mark.timeout(600)  # the first run compiles pycuda

ENTRIES = tuple(entries(HAND_WRITTEN / "pycuda" / "driver.pyi"))
DESCRIBE = HAND_WRITTEN.parent / "describe.py"


@pytest.fixture(scope="session")
def real() -> dict[str, Any]:
    """What the real module says of each name in the stubs."""
    ended = subprocess.run(
        [sys.executable, DESCRIBE],
        input=json.dumps([entry.name for entry in ENTRIES]),
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(ended.stdout))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_stubs_are_like_the_module(entry: Entry, real: dict[str, Any]) -> None:
    described = real[entry.name]
    assert described is not None
    assert set(entry.bases) <= set(described["bases"])
    if entry.signature is not None:
        assert fits(entry, signatures(described["docstring"])), described["docstring"]
    figures.tell(ContractPart.API, "names of pycuda.driver as in the stubs", entry.name, of=len(ENTRIES))


RECORD = "\nrecord( (Event)arg1 [, (object)stream=None]) -> Event :\n\n    C++ signature :\n        boost::python::api"
STREAM = Parameter("stream", is_optional=True)


def _record(*parameters: Parameter, returns: str = "Event") -> Entry:
    return Entry("Event.record", Signature(parameters, returns), takes_self=True)


def test_a_docstring_is_read() -> None:
    assert signatures(RECORD) == [Signature((Parameter("", is_optional=False), STREAM), "Event")]


@pytest.mark.parametrize(
    "wrong",
    [
        _record(Parameter("queue", is_optional=True)),
        _record(Parameter("stream", is_optional=False)),
        _record(STREAM, Parameter("flags", is_optional=True)),
        _record(STREAM, returns="None"),
    ],
    ids=["another name", "not optional", "one too many", "returns something else"],
)
def test_stubs_that_promise_too_much_are_caught(wrong: Entry) -> None:
    assert not fits(wrong, signatures(RECORD))


def test_stubs_may_promise_less() -> None:
    assert fits(_record(), signatures(RECORD))
    assert fits(_record(Parameter("", is_optional=True)), signatures(RECORD))
