"""How much memory objects hold."""

import gc
import sys
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

_SHARED = (ModuleType, FunctionType, BuiltinFunctionType, type)


def held_bytes(root: object, *besides: object) -> int:
    """Bytes of all objects that can be reached from ``root``, and not from ``besides``."""
    apart = _reachable(besides, {})
    return sum(sys.getsizeof(each) for key, each in _reachable([root], dict(apart)).items() if key not in apart)


def _reachable(roots: Any, seen: dict[int, object]) -> dict[int, object]:
    waiting = list(roots)
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, _SHARED):
            continue
        seen[id(each)] = each
        waiting += gc.get_referents(each)
        if isinstance(each, memoryview):
            waiting.append(each.obj)
    return seen
