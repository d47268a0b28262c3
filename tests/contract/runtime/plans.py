"""Plans of the double: a number, the largest batch, before an ONNX file."""

from pathlib import Path

_HEADER_BYTES = 4


def make_plan(model: Path, max_rows: int) -> bytes:
    return max_rows.to_bytes(_HEADER_BYTES, "little") + model.read_bytes()


def read_plan(plan: bytes) -> tuple[int, bytes]:
    """The largest batch, and the ONNX file."""
    return int.from_bytes(plan[:_HEADER_BYTES], "little"), plan[_HEADER_BYTES:]
