"""Whether models have the same tensors."""

import numpy as np
import pytest

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.errors import ArtefactError
from proteus_cli.variants.models import require_same_tensors


def giving(size: int | None) -> Signature:
    floats = np.dtype(np.float32)
    return Signature((TensorSpec("x", floats, (4,)),), (TensorSpec("y", floats, (size,)),))


def test_sizes_that_fit_one_that_varies_must_fit_each_other() -> None:
    varying, three, five = giving(None), giving(3), giving(5)
    assert require_same_tensors([("a", varying), ("b", three), ("c", three)]) == varying
    with pytest.raises(ArtefactError, match=r"`c` takes or gives other tensors than `b`: `y` has \[5\] against \[3\]"):
        require_same_tensors([("a", varying), ("b", three), ("c", five)])
