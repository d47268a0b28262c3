"""CVXPY (`cp`), imported in half the time.

CVXPY imports `scipy.stats`, which takes as long as all else that a planner imports, for one function of an atom that no
model here has. Every process that plans would pay for it, so the import of `scipy.stats` waits until somebody uses it.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

_WAITING = "scipy.stats"
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
    if module in sys.modules:
        yield
        return
    stand_in = sys.modules[module] = _Waiting(module)
    try:
        yield
    finally:
        if sys.modules.get(module) is stand_in:
            del sys.modules[module]


with _waiting(_WAITING):
    import cvxpy as cp

__all__ = ["cp"]
