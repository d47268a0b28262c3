"""The doubles of TensorRT offer nothing that the real classes don't: what runs on them could be run by those."""

import pytest
from contract import figures
from contract.api.checking import ROOT
from contract.api.contracts import Contract
from contract.api.surface import Surface, offers_more, surface
from contract.figures import ContractPart

HERE = ROOT / "tests" / "contract"
DOUBLES = {
    name: surface((HERE / name).read_text(encoding="utf-8"))
    for name in ("runtime/double_tensorrt.py", "e2e/double/tensorrt.py")
}

REAL = surface(
    """
class DataType:
    FLOAT: DataType
class Engine:
    @property
    def size(self) -> int: ...
    @typing.overload
    def run(self, name: str, rows: int = 1) -> bool: ...
    @typing.overload
    def run(self, stream: int) -> bool: ...
"""
)


@pytest.mark.timeout(600)  # the first run downloads
@pytest.mark.parametrize("name", DOUBLES)
def test_a_double_offers_what_each_release_has(name: str, contract: Contract) -> None:
    real = surface((contract.stubs / "tensorrt.pyi").read_text(encoding="utf-8"))
    assert offers_more(DOUBLES[name], real) == []
    figures.tell(ContractPart.API, "names of the doubles that are TensorRT's", *DOUBLES[name])


def test_what_a_double_offers_is_found() -> None:
    """Classes, members of enumerations of both kinds, methods, and attributes that are set on the way."""
    names = DOUBLES["runtime/double_tensorrt.py"].keys()
    assert names > {
        "TensorIOMode.INPUT", "DataType.HALF", "ILogger.Severity.ERROR", "ICudaEngine.num_io_tensors",
        "IExecutionContext.execute_async_v3", "nptype",
    }  # fmt: skip
    assert {"OnnxParser.parse_from_file", "Builder.build_serialized_network"} < DOUBLES["e2e/double/tensorrt.py"].keys()


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("def run(self, name): ...", []),
        ("def run(self, name, rows=1): ...", []),
        ("def run(self, stream): ...", []),
        ("def _helped(self): ...", []),
        ("def __init__(self): self.size = 1", []),
        ("def stop(self): ...", ["Engine.stop()"]),
        ("def run(self, name, rows): ...", ["Engine.run(name, rows)"]),
        ("def run(self, title): ...", ["Engine.run(title)"]),
        ("def run(self): ...", ["Engine.run()"]),
        ("def run(self, name, rows=1, more=2): ...", ["Engine.run(name, rows, more)"]),
        ("def __init__(self): self.counted = 0", ["Engine.counted"]),
        ("kind = enum.Enum('Kind', ['A'])", ["Engine.kind", "Engine.kind.A"]),
    ],
)
def test_names_that_the_real_module_lacks_are_reported(text: str, more: list[str]) -> None:
    double: Surface = surface(f"class Engine:\n    {text}")
    assert offers_more(double, REAL) == more
