"""CVXPY (`cp`), imported in half the time.

Every process that plans pays for what CVXPY imports, most of which no model here has:

* all solvers that are installed. Ours is HiGHS, so CVXPY finds no other;
* `scipy.stats`, which takes as long as all else that a planner imports, for one function of an atom;
* all public modules of NumPy, for a copy of its names that SciPy makes: among them its compiler of Fortran, and its
  tests' tools. The import of these and of `scipy.stats` waits until somebody uses them.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

_OTHER_SOLVERS = ("clarabel", "osqp", "scipy.optimize", "scs")
_WAITING = ("numpy.f2py", "numpy.testing", "scipy.stats")
_FUNCTIONS = frozenset({"entropy"})


class _Waiting(ModuleType):
    """Stands for a module: its functions import it where they are called, all else of it is taken from it at once."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _called_later(self.__name__, name) if name in _FUNCTIONS else getattr(_imported(self.__name__), name)


def _called_later(module: str, name: str) -> Callable[..., Any]:
    def function(*args: Any, **named: Any) -> Any:
        return getattr(_imported(module), name)(*args, **named)

    return function


def _imported(module: str) -> ModuleType:
    """The module itself, also while another stands for it."""
    found = sys.modules.get(module)
    if isinstance(found, _Waiting):
        del sys.modules[module]
    return import_module(module)


@contextmanager
def _waiting(module: str) -> Iterator[None]:
    """In here, the import of a module waits."""
    if module in sys.modules:
        yield
        return
    stand_in = sys.modules[module] = _Waiting(module)
    package, _, name = module.rpartition(".")
    if package == np.__name__:  # else it imports the module until it has it as an attribute
        setattr(np, name, stand_in)
    try:
        yield
    finally:
        if sys.modules.get(module) is stand_in:
            del sys.modules[module]
        if vars(np).get(name) is stand_in:
            delattr(np, name)


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """In here, a module that was not imported before cannot be found."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # as the import system has it
    try:
        yield
    finally:
        del sys.modules[module]


with ExitStack() as _imports:
    for _module in _WAITING:
        _imports.enter_context(_waiting(_module))
    for _module in _OTHER_SOLVERS:
        _imports.enter_context(_hidden(_module))
    import cvxpy as cp
    import scipy.sparse as sp

__all__ = ["cp", "sp"]
