"""What is held to the contract: every module of ours that touches the bindings, and the sample adapter."""

import re
from pathlib import Path

from contract.api.checking import ROOT, Source

PACKAGE = ROOT / "proteus_cli"
SAMPLE = Path(__file__).parent / "sample_adapter.py"

_TOUCHES = re.compile(r"^\s*(?:from|import) (?:tensorrt|pycuda|proteus_cli\.backends\.tensorrt)\b", re.MULTILINE)


def ours() -> tuple[Source, ...]:
    """All modules of the package that import the bindings, or what is made of them."""
    found = (_source(path, path.relative_to(ROOT)) for path in sorted(PACKAGE.rglob("*.py")))
    return tuple(source for source in found if _TOUCHES.search(source.text) or "backends/tensorrt/" in source.path)


def sample() -> Source:
    """The sample adapter, which has a use of everything."""
    return _source(SAMPLE, Path(SAMPLE.name))


def _source(path: Path, shown: Path) -> Source:
    name = ".".join(shown.with_suffix("").parts).removesuffix(".__init__")
    return Source(name, str(shown), path.read_text(encoding="utf-8"))
