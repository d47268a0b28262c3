"""JPEG and PNG images in place of a family's tensor of pixels: one of BYTES, with an image for each row.

Pillow decodes and resizes in C, without the GIL, so each image is a step for a thread (`InThreads`). What an image
claims to be is bounded before it is decoded. Images are squeezed to the family's size, whatever their shape;
transparency and rotation by metadata are passed over.
"""

import struct
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from proteus_cli.backends.base import Signature
from proteus_cli.domain.arrays import Buffer
from proteus_cli.domain.catalog import ImageInput
from proteus_cli.errors import BadRequest
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.requests.query import Inputs, Steps

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

MAX_FILE_BYTES = 16 * 2**20
"""Of an encoded image: a JPEG of `MAX_PIXELS` pixels and of good quality has about as many."""

MAX_PIXELS = 2**25
"""Of an encoded image: decoded, it takes up to 8 bytes for each."""

MAX_SCANS = 100
"""Of a progressive JPEG, which is gone through once for each. Encoders make 10."""

_MODES = {1: "L", 3: "RGB"}
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_SCAN = b"\xff\xda"
_LENGTH = struct.Struct("<I")


def may_be_encoded(image: ImageInput | None) -> bool:
    """Whether a family takes images: it has an input of one channel, grey, or of three, red, green and blue."""
    return image is not None and image.channels in _MODES


def max_bytes(signature: Signature, rows: int, image: ImageInput | None) -> int:
    """The largest size of a request of so many rows, be they numbers or, for a family that takes them, images."""
    of_values = oip.max_bytes(signature, rows)
    if not may_be_encoded(image):
        return of_values
    return max(of_values, rows * (_LENGTH.size + MAX_FILE_BYTES) + oip.OTHER_BYTES)


def image_rows(name: str, shape: Sequence[int]) -> int:
    """The rows of an input of images. Raises `BadRequest`."""
    if list(shape[1:]) not in ([], [1]) or not shape or shape[0] < 1:
        raise BadRequest(f"input `{name}` of images must have shape [rows] with rows ≥ 1; got {list(shape)}")
    return shape[0]


def read_images(content: Buffer, rows: int, image: ImageInput) -> Steps[Inputs]:
    """The pixels of as many images, each behind its length in four bytes, with a pause after each.

    Raises `BadRequest`.
    """
    pixels = np.empty((rows, *image.shape), np.uint8)
    for row, encoded in enumerate(_split(content, rows, image.name)):
        pixels[row] = _decoded(encoded, f"image {row} of input `{image.name}`", image)
        yield
    return (pixels.reshape(-1).data,)


def _split(content: Buffer, rows: int, name: str) -> Iterator[bytes]:
    view, at = memoryview(content), 0
    for _ in range(rows):
        if len(view) - at < _LENGTH.size:
            break
        (size,) = _LENGTH.unpack_from(view, at)
        first = at + _LENGTH.size
        at = first + size
        if at > len(view):
            break
        yield bytes(view[first:at])
    else:
        if at == len(view):
            return
    raise BadRequest(f"input `{name}` must hold {rows} images, each behind its length in four bytes")


def _decoded(encoded: bytes, where: str, image: ImageInput) -> npt.NDArray[np.uint8]:
    from PIL.Image import Resampling  # noqa: PLC0415 - only where images are sent

    height, width = image.size
    try:
        with _opened(encoded, where) as opened:
            opened.draft(_MODES[image.channels], (width, height))  # a JPEG needs not be decoded in its full size
            whole = opened.convert("RGBA") if opened.mode == "P" else opened
            resized = whole.convert(_MODES[image.channels]).resize((width, height), Resampling.BILINEAR)
            pixels = np.asarray(resized).reshape(height, width, image.channels)
    except (BadRequest, MemoryError):
        raise
    except Exception as error:  # what a damaged file makes decoders raise has no base class
        raise BadRequest(f"{where} is damaged: {error}") from error
    return pixels if image.layout == "NHWC" else pixels.transpose(2, 0, 1)


def _opened(encoded: bytes, where: str) -> "ImageFile":
    """An image of which only the head was read. Raises `BadRequest` where it is too much to decode, or no image."""
    if len(encoded) > MAX_FILE_BYTES:
        raise BadRequest(f"{where} has {len(encoded)} bytes; at most {MAX_FILE_BYTES} are decoded")
    from PIL.JpegImagePlugin import JpegImageFile  # noqa: PLC0415 - only where images are sent
    from PIL.PngImagePlugin import PngImageFile  # noqa: PLC0415 - like above

    if encoded.startswith(_JPEG):
        if encoded.count(_SCAN) > MAX_SCANS:
            raise BadRequest(f"{where} has more than {MAX_SCANS} scans")
        opened: ImageFile = JpegImageFile(BytesIO(encoded))
    elif encoded.startswith(_PNG):
        opened = PngImageFile(BytesIO(encoded))
    else:
        raise BadRequest(f"{where} is neither JPEG nor PNG")
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise BadRequest(f"{where} has {width} × {height} pixels; at most {MAX_PIXELS:,} are decoded")
    if opened.mode.startswith("I"):
        raise BadRequest(f"{where} has 16 bits for a pixel; 8 are decoded")
    return opened
