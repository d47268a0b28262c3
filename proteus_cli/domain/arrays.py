"""Types of arrays and of bytes, as type checkers see them."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

Buffer = bytes | bytearray | memoryview
"""Content that is handed on without a copy. The values of a tensor are row-major, little-endian, without gaps."""
