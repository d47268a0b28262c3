"""Memory whose content is not set: its pages are taken one by one as it is filled, not all at once."""

import ctypes

_new = ctypes.pythonapi.PyByteArray_FromStringAndSize
_new.argtypes, _new.restype = (ctypes.c_char_p, ctypes.c_ssize_t), ctypes.py_object


def unset_bytes(size: int) -> bytearray:
    """So many bytes, to be overwritten. ``bytearray(size)`` would take 3 ms to set 10 MiB. Raises `MemoryError`."""
    content: bytearray = _new(None, size)
    return content
