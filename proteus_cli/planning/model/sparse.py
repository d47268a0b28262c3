"""SciPy's sparse arrays (`sp`), without the import of what no planner needs.

SciPy makes a copy of NumPy's names, and with it imports all public modules of NumPy: its compiler of Fortran, too, and
the tools of its tests, which take a quarter of the whole. The import of these waits until somebody uses them.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

WAITING = ("f2py", "testing")


class _Waiting(ModuleType):
    """Stands for a module, which is imported when something of it is wanted."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(import_module(self.__name__), name)


@contextmanager
def _waiting() -> Iterator[None]:
    """In here, the import of the modules waits."""
    stand_ins = {}
    for name in WAITING:
        module = f"{np.__name__}.{name}"
        if module not in sys.modules:
            stand_ins[name] = sys.modules[module] = _Waiting(module)
            setattr(np, name, stand_ins[name])  # else NumPy imports the module until it has it as an attribute
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(stand_in.__name__) is stand_in:
                del sys.modules[stand_in.__name__]
            if vars(np).get(name) is stand_in:
                delattr(np, name)


with _waiting():
    import scipy.sparse as sp

__all__ = ["sp"]
