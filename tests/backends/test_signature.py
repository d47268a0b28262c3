"""Which models can answer the same queries."""

import numpy as np
import pytest

from proteus_cli.backends.base import Signature, TensorSpec

FLOAT, HALF = np.dtype(np.float32), np.dtype(np.float16)


def signature(*outputs: TensorSpec) -> Signature:
    return Signature((TensorSpec("x", FLOAT, (4,)),), outputs)


@pytest.mark.parametrize(
    ("outputs", "fits"),
    [
        ((TensorSpec("y", FLOAT, (3, 2)),), True),
        ((TensorSpec("y", FLOAT, (None, 2)),), True),
        ((TensorSpec("y", FLOAT, (None, 5)),), False),
        ((TensorSpec("y", FLOAT, (3,)),), False),
        ((TensorSpec("y", HALF, (3, 2)),), False),
        ((TensorSpec("z", FLOAT, (3, 2)),), False),
        ((TensorSpec("y", FLOAT, (3, 2)), TensorSpec("z", FLOAT, (1,))), False),
    ],
)
def test_a_size_that_only_one_backend_knows_may_be_any(outputs: tuple[TensorSpec, ...], *, fits: bool) -> None:
    known = signature(TensorSpec("y", FLOAT, (3, 2)))
    assert known.fits(signature(*outputs)) is fits
    assert signature(*outputs).fits(known) is fits


def test_a_row_takes_the_bytes_of_its_values() -> None:
    assert TensorSpec("x", HALF, (3, None, 2)).row_bytes == 12
