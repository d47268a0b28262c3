"""How batches lie in an engine's buffers, and what is refused before anything is done with it."""

import numpy as np
import pytest

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.backends.tensorrt.slots import EngineTensors, require_memory
from proteus_cli.errors import EngineError, OutOfDeviceMemory

FLOAT, HALF = np.dtype(np.float32), np.dtype(np.float16)
IMAGE, LENGTH = TensorSpec("image", HALF, (3, 2)), TensorSpec("length", np.dtype(np.int64), ())
LAYOUT = EngineTensors(Signature((IMAGE, LENGTH), (TensorSpec("scores", FLOAT, (10,)),)), max_rows=8)


def part(rows: int, image_bytes: int | None = None) -> tuple[int, tuple[bytes, ...]]:
    return rows, (bytes(rows * 12 if image_bytes is None else image_bytes), bytes(rows * 8))


def test_a_row_takes_what_its_values_take() -> None:
    assert [spec.row_bytes for spec in (IMAGE, LENGTH)] == [12, 8]


def test_buffers_are_as_large_as_the_largest_batch_of_every_tensor() -> None:
    assert LAYOUT.buffer_bytes == 8 * (12 + 8 + 40)


def test_rows_of_all_parts_make_the_batch() -> None:
    assert LAYOUT.rows_of([part(3), part(1), part(4)]) == 8


@pytest.mark.parametrize("parts", [[], [part(0)], [part(5), part(4)]])
def test_a_batch_of_no_rows_or_too_many_is_refused(parts: list[tuple[int, tuple[bytes, ...]]]) -> None:
    with pytest.raises(EngineError, match="1 to 8 rows"):
        LAYOUT.rows_of(parts)


@pytest.mark.parametrize("image_bytes", [0, 11, 13, 24])
def test_values_of_another_type_or_size_are_refused(image_bytes: int) -> None:
    with pytest.raises(EngineError, match=f"`image` has {image_bytes} bytes, where 1 rows of float16 take 12"):
        LAYOUT.rows_of([part(1), part(1, image_bytes)])


def test_memory_may_be_used_up_to_the_last_byte() -> None:
    require_memory(100, 100, 200, what="Weights")
    with pytest.raises(OutOfDeviceMemory, match=r"Weights take 101 B .* of 200 B only 100 B are free"):
        require_memory(101, 100, 200, what="Weights")
