"""Reads arrays of `.npz` files that this program wrote, and that may be damaged."""

import lzma
import struct
import zlib
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt
from numpy.lib.format import read_array_header_1_0, read_magic

from proteus_cli.domain.base import require

NOT_NPZ = (  # what zipfile, zlib and numpy raise for files that are damaged, or claim to hold what they don't
    OSError, EOFError, LookupError, ValueError, TypeError, RuntimeError, MemoryError, SyntaxError, ArithmeticError,
    TokenError, BadZipFile, zlib.error, lzma.LZMAError, struct.error,
)  # fmt: skip


def array_in(
    arrays: ZipFile, name: str, dtype: npt.DTypeLike, max_bytes: int, shape: tuple[int, ...] | None = None
) -> npt.NDArray[Any]:
    """An array of that type and shape (None: any list). Only what its header says that it is gets unpacked."""
    info = arrays.getinfo(f"{name}.npy")
    require(info.file_size <= max_bytes, f"`{name}` is too large")
    with arrays.open(info) as member:
        require(read_magic(member) == (1, 0), f"`{name}` has an unknown version")
        found, _, stored = read_array_header_1_0(member)
        fits = len(found) == 1 if shape is None else found == shape
        require(stored == np.dtype(dtype) and fits, f"`{name}` does not fit the index")
        content = member.read(info.file_size)
    return np.frombuffer(content, stored).reshape(found)
