"""Run where pycuda can be imported: prints what `pycuda.driver` is like as JSON, for the dotted names on stdin."""

import inspect
import json
import sys
from typing import Any

import pycuda.driver


def described(name: str) -> dict[str, Any] | None:
    found: Any = pycuda.driver
    for part in name.split("."):
        if not hasattr(found, part):
            return None
        found = getattr(found, part)
    bases = [base.__name__ for base in found.__mro__] if inspect.isclass(found) else []
    return {"docstring": found.__doc__ or "", "bases": bases}


print(json.dumps({name: described(name) for name in json.load(sys.stdin)}))  # noqa: T201
