"""What a multi-exit model says of its rows travels behind the outputs, and is told apart from them at the end."""

import numpy as np

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.backends.exits.runner import NOTES
from proteus_cli.serving.devices.executor import BatchResult
from proteus_cli.serving.devices.process.layout import BatchLayout

FLOAT = np.dtype(np.float32)
PLAIN = Signature((TensorSpec("x", FLOAT, (4,)),), (TensorSpec("scores", FLOAT, (3,)),))
OF_EXITS = Signature(PLAIN.inputs, PLAIN.outputs, NOTES)

SCORES = np.arange(15, dtype=np.float32).reshape(5, 3)
SAID = (
    np.array([1, 2, 3, 1, 2], np.uint8),
    np.array([0.5, np.nan, 2, 3, 4], np.float32),
    np.array([False, True, False, False, True]),
    np.array([1, 0, 2, 1, 0], np.uint8),
    np.array([0.1, np.nan, 0.2, np.nan, 0.3]),
)


def through(signature: Signature, result: BatchResult) -> BatchResult:
    """As a host of a cluster sends it: the pieces one behind the other, and the shapes."""
    layout = BatchLayout(signature)
    sent = b"".join(bytes(piece) for piece in layout.output_pieces(result.given))
    outputs, notes = signature.told_apart(layout.outputs_in([v.shape for v in result.given], memoryview(sent)))
    return BatchResult(outputs, result.compute_s, notes=notes)


def test_notes_arrive_behind_the_outputs() -> None:
    found = through(OF_EXITS, BatchResult((SCORES,), 0.1, notes=SAID))
    (scores,) = found.outputs
    np.testing.assert_array_equal(scores, SCORES)
    assert [values.dtype for values in found.notes] == [spec.dtype for spec in NOTES]
    for values, expected in zip(found.notes, SAID, strict=True):
        np.testing.assert_array_equal(values, expected)


def test_other_models_have_none() -> None:
    found = through(PLAIN, BatchResult((SCORES,), 0.1))
    assert found.notes == ()
    np.testing.assert_array_equal(found.outputs[0], SCORES)


def test_notes_are_no_difference_between_variants_of_a_family() -> None:
    assert OF_EXITS.fits(PLAIN)
    assert PLAIN.fits(OF_EXITS)
    assert OF_EXITS.given == (*PLAIN.outputs, *NOTES)
