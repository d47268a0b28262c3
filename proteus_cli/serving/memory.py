"""Memory whose content is not set, and dictionaries that remember a bounded number of things."""

import ctypes
from typing import TypeVar

Key = TypeVar("Key")
Known = TypeVar("Known")

_new = ctypes.pythonapi.PyByteArray_FromStringAndSize
_new.argtypes, _new.restype = (ctypes.c_char_p, ctypes.c_ssize_t), ctypes.py_object


def unset_bytes(size: int) -> bytearray:
    """Bytes to be overwritten, whose pages are taken one by one as they are filled. Raises `MemoryError`.

    ``bytearray(size)`` would take 3 ms to set 10 MiB.
    """
    content: bytearray = _new(None, size)
    return content


def remember(known: dict[Key, Known], key: Key, value: Known, max_known: int) -> None:
    """Remember a value; where ``max_known`` are remembered already, those are all forgotten first.

    Entries still in use are soon known again, and a look-up costs no more than in any dictionary.
    """
    if len(known) >= max_known:
        known.clear()
    known[key] = value
