"""Libraries that have the symbols which a binding asks for, and nothing behind them.

NVIDIA's Python bindings are small; the libraries that they load are large and aren't on a machine without a GPU. The
loader only wants to find the names: with these it imports the real bindings, with all their classes and docstrings.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = """\
#include <stdio.h>
#include <stdlib.h>

#define STAND_IN(name) \\
    void name(void) {{ fputs("stand-in for " #name ": no library is behind it\\n", stderr); abort(); }}

{symbols}
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the loader misses for an extension: names of libraries, and of symbols that no library has."""

    libraries: tuple[str, ...]
    symbols: tuple[str, ...]


def wanted(extension: Path) -> Wanted:
    """What is missing here, as the loader itself says (ldd with relocations)."""
    said = subprocess.run(["ldd", "-r", extension], check=False, capture_output=True, text=True)
    text = said.stdout + said.stderr
    libraries = re.findall(r"^\s*(\S+) => not found", text, re.MULTILINE)
    symbols = re.findall(r"^undefined symbol: (\w+)", text, re.MULTILINE)
    return Wanted(tuple(libraries), tuple(sorted({name for name in symbols if not _is_pythons(name)})))


def make(extension: Path, into: Path) -> Wanted:
    """Compile the libraries that an extension misses. Raises `CalledProcessError`.

    Each is replaced whole: another process may load what was made before while this one compiles.
    """
    missing = wanted(extension)
    into.mkdir(parents=True, exist_ok=True)
    source = into / "standin.c"
    source.write_text(SOURCE.format(symbols="\n".join(f"STAND_IN({name})" for name in missing.symbols)))
    for library in missing.libraries:  # symbols have no home in ELF, so each library may have them all
        compiled = into / f"{library}.new"
        subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", compiled, source], check=True)
        compiled.replace(into / library)
    return missing


def _is_pythons(symbol: str) -> bool:
    """The interpreter brings these along."""
    return symbol.startswith(("Py", "_Py"))
