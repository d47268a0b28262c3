"""Types tell where code touches the bindings: through whatever names, containers and classes of ours they come."""

import pytest
from contract.api.checking import Checked, Source, check
from contract.api.sites import Receiver, Site, aliases, overrides, receivers

STUB = """\
class Engine:
    size: int
    def name(self, index: int) -> str: ...
class Monitor:
    def step(self, phase_name: str, step: int) -> bool: ...
class Kind:
    class Deep:
        FLAG: Kind.Deep
def load(plan: bytes) -> Engine | None: ...
"""
CODE = """\
from __future__ import annotations
from typing import TYPE_CHECKING, Any
import tensorrt as trt

class Box:
    def __init__(self, engines: dict[str, trt.Engine], anything: Any) -> None:
        self.engines, self.anything = engines, anything

def use(box: Box) -> None:
    box.engines["a"].name(index=1)
    box.engines.keys()
    box.anything.guess()
    print(trt.Kind.Deep.FLAG)
    if (engine := trt.load(b"")) is not None:
        engine.size = 2
    if not isinstance(box, Box):
        box.engines["a"].never()

class Right(trt.Monitor):
    def step(self, phase_name: str, step: int) -> bool:
        return bool(self.helped())
    def _helped(self) -> bool:
        return True

class Wrong(trt.Monitor):
    def step(self, phase: str, step: int) -> bool:
        return True
    def stop(self) -> None: ...
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    stubs = tmp_path_factory.mktemp("stubs")
    (stubs / "tensorrt.pyi").write_text(STUB, encoding="utf-8")
    return check([Source("code", "code.py", CODE)], stubs, stubs / "cache")


@pytest.fixture(scope="module")
def found(checked: Checked) -> dict[Site, Receiver]:
    return receivers("code.py", checked.trees["code"], checked.types)


def _names(found: dict[Site, Receiver], wanted: Receiver, *, calls: bool) -> set[str]:
    return {site.name for site, receiver in found.items() if receiver is wanted and site.is_call == calls}


def test_attributes_of_the_bindings_are_found(found: dict[Site, Receiver]) -> None:
    assert _names(found, Receiver.BINDING, calls=False) == {"name", "Kind", "Deep", "FLAG", "load", "size", "Monitor"}


def test_calls_of_the_bindings_are_found(found: dict[Site, Receiver]) -> None:
    assert _names(found, Receiver.BINDING, calls=True) == {"name", "load"}


def test_expressions_of_unknown_type_are_reported(found: dict[Site, Receiver]) -> None:
    assert _names(found, Receiver.ANY, calls=False) == {"guess"}
    assert _names(found, Receiver.UNSEEN, calls=False) == {"engines", "never"}


def test_attributes_of_our_own_classes_are_not_sites(found: dict[Site, Receiver]) -> None:
    assert {"keys", "engines", "anything"} <= _names(found, Receiver.OTHER, calls=False)


def test_a_site_is_where_the_text_has_it(found: dict[Site, Receiver]) -> None:
    (site,) = (site for site in found if site.name == "name" and site.is_call)
    line, first, last_line, last = site.span
    assert line == last_line
    assert CODE.splitlines()[line - 1][first:last] == 'box.engines["a"].name(index=1)'


def test_overrides_with_other_names_are_found(checked: Checked) -> None:
    told = {(o.name, o.ours[1:2], o.fits) for o in overrides("code.py", checked.trees["code"])}
    assert told == {("step", ("phase_name",), True), ("step", ("phase",), False), ("stop", (), False)}


def test_names_of_the_modules_are_known(checked: Checked) -> None:
    assert aliases(checked.trees["code"]) == {"trt"}


def test_an_error_of_types_is_reported_where_it_is(checked: Checked) -> None:
    (complaint,) = checked.complaints["code.py"]
    assert complaint.line == CODE[: CODE.index("self.helped()")].count("\n") + 1
    assert complaint.code == "attr-defined"
