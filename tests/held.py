"""How much memory objects hold."""

import gc
import sys
from types import BuiltinFunctionType, FunctionType, ModuleType

_SHARED = (ModuleType, FunctionType, BuiltinFunctionType, type)


def held_bytes(root: object, *besides: object) -> int:
    """Bytes of all objects that can be reached from ``root``, other than through ``besides``."""
    seen, waiting, found = {id(each) for each in besides}, [root], 0
    while waiting:
        each = waiting.pop()
        if id(each) not in seen and not isinstance(each, _SHARED):
            seen.add(id(each))
            found += sys.getsizeof(each)
            waiting += gc.get_referents(each)
            if isinstance(each, memoryview):
                waiting.append(each.obj)
    return found
