"""JPEG and PNG images in place of a family's tensor of pixels: one of BYTES, with an image for each row.

Pillow decodes and resizes in C, without the GIL, so each image is a step for a thread (`InThreads`). The claimed size
of an image is bounded before it is decoded, and so are the parts that Pillow reads in Python: pieces of a file, EXIF.
Large images are decoded one at a time, so that others need not wait for them and memory stays bounded.
Images are turned as their EXIF says, and stretched to the family's size, or cropped to its shape first. Transparency
is passed over.
"""

import asyncio
import struct
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from math import prod
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from proteus_cli.backends.base import Signature
from proteus_cli.buffers import Buffer
from proteus_cli.domain.catalog import ImageInput
from proteus_cli.errors import BadRequest
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.requests.query import Inputs, InThreads, ResultT

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile
    from PIL.JpegImagePlugin import JpegImageFile

MAX_FILE_BYTES = 16 * 2**20
"""The most bytes of an encoded image: a JPEG of `MAX_PIXELS` pixels and of good quality has about as many."""

MAX_PIXELS = 2**25
"""The most pixels of an encoded image, each up to 8 bytes once it is decoded."""

MAX_SIDE = 2**16 - 1
"""The longest side of an encoded image in pixels, as in JPEG. Pillow has a pointer for each row, and resizes each on
its own."""

LARGE_PIXELS = 2**21
"""Beyond these an image is large: a thread takes some 70 ms for as many in a PNG. Of a JPEG of one scan, which is
scaled down while it is decoded, the pixels that are left count."""

MAX_SCANS = 100
"""The most scans of a progressive JPEG, each of them a pass over the image. Encoders make 10."""

MIN_READS, BYTES_OF_A_READ = 2**11, 2**10
"""A file may be read `MIN_READS` times, and once more for each `BYTES_OF_A_READ`. Pillow reads each segment of a JPEG
and each chunk of a PNG in Python, with three reads, and byte by byte between them. Encoders of PNG make chunks of 8
KiB."""

MAX_EXIF_ENTRIES = 512
"""The most entries of the first directory, which has some 20; one of them is the orientation."""

THREADS = 2
"""For all images that are not large; those have one thread more, as each takes much memory."""

Steps = Generator[bool, None, ResultT]
"""As of `InThreads`."""

_MODES = {1: "L", 3: "RGB"}
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_SCAN = b"\xff\xda"
_LENGTH = struct.Struct("<I")
_ORIENTATION, _SHORT, _UPRIGHT = 0x0112, 3, 1
_TURNS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip
"""Pillow's name for the turn that sets an image upright, by its orientation in EXIF."""
_ON_ITS_SIDE = 5  # orientations from here on exchange width and height


def may_be_encoded(image: ImageInput | None) -> bool:
    """Whether a family takes images: it has an input of one channel, grey, or of three, red, green and blue."""
    return image is not None and image.channels in _MODES


def max_bytes(signature: Signature, rows: int, image: ImageInput | None) -> int:
    """The largest size of a request of as many rows, numbers or (for a family that takes them) images."""
    of_values = oip.max_bytes(signature, rows)
    if not may_be_encoded(image):
        return of_values
    return max(of_values, rows * (_LENGTH.size + MAX_FILE_BYTES) + oip.OTHER_BYTES)


def image_rows(name: str, shape: Sequence[int]) -> int:
    """The rows of an input of images. Raises `BadRequest`."""
    if list(shape[1:]) not in ([], [1]) or not shape or shape[0] < 1:
        raise BadRequest(f"input `{name}` of images must have shape [rows] with rows ≥ 1; got {list(shape)}")
    return shape[0]


class DescribedTensor(Protocol):
    """A tensor of a request, in either protocol."""

    @property
    def name(self) -> str: ...

    @property
    def datatype(self) -> str: ...

    @property
    def shape(self) -> Sequence[int]: ...


def places_and_rows(
    signature: Signature, image: ImageInput | None, tensors: Sequence[DescribedTensor]
) -> tuple[tuple[int, ...], int, bool]:
    """The place of each input among the tensors of a request, their rows, and whether they are images.

    Raises `BadRequest` where the tensors differ from the signature.
    """
    places, first = oip.in_order(signature, [tensor.name for tensor in tensors]), tensors[0]
    if first.datatype == oip.STRINGS and may_be_encoded(image):
        return places, image_rows(first.name, first.shape), True
    each = [
        oip.rows_of(spec.name, tensors[place].datatype, tensors[place].shape, spec)
        for place, spec in zip(places, signature.inputs, strict=True)
    ]
    return places, oip.require_same(each), False


def read_images(content: Buffer, rows: int, image: ImageInput) -> Steps[Inputs]:
    """The pixels of as many images, each behind its length in four bytes, with a pause after each.

    Raises `BadRequest`.
    """
    return _pixels(_split(content, rows, image.name), rows, image)


def read_image(content: Buffer, image: ImageInput) -> Steps[Inputs]:
    """The pixels of one image, without a length. Raises `BadRequest`."""
    return _pixels(iter([content]), 1, image)


async def in_threads(work: InThreads[ResultT]) -> ResultT:
    """The result of the work. Raises what it raises."""
    loop, is_large = asyncio.get_running_loop(), False
    while True:
        ended, is_large = await loop.run_in_executor(_threads(is_large), _step, work.steps)
        if ended:
            return ended[0]


def drained(steps: Steps[ResultT]) -> ResultT:
    """The result of work, done at once in this thread."""
    while True:
        ended, _ = _step(steps)
        if ended:
            return ended[0]


def _step(steps: Steps[ResultT]) -> tuple[list[ResultT], bool]:
    """Do a step: the result once there is one, and whether the next is large. (A future can't hold `StopIteration`.)"""
    try:
        return [], next(steps)
    except StopIteration as ended:
        return [ended.value], False


@cache
def _threads(are_large: bool) -> ThreadPoolExecutor:  # noqa: FBT001 - the key of the cache
    return ThreadPoolExecutor(1 if are_large else THREADS, thread_name_prefix="images")


def _pixels(images: Iterator[Buffer], rows: int, image: ImageInput) -> Steps[Inputs]:
    pixels = np.empty((rows, *image.shape), np.uint8)
    for row, encoded in enumerate(images):
        pixels[row] = yield from decoded(encoded, f"image {row} of input `{image.name}`", image)
        yield False
    return (pixels.reshape(-1).data,)


def _split(content: Buffer, rows: int, name: str) -> Iterator[Buffer]:
    view, at = memoryview(content), 0
    for _ in range(rows):
        if len(view) - at < _LENGTH.size:
            break
        (size,) = _LENGTH.unpack_from(view, at)
        first = at + _LENGTH.size
        at = first + size
        if at > len(view):
            break
        yield view[first:at]
    else:
        if at == len(view):
            return
    raise BadRequest(f"input `{name}` must hold {rows} images, each behind its length in four bytes")


def decoded(encoded: Buffer, where: str, image: ImageInput) -> Steps[npt.NDArray[np.uint8]]:
    """The pixels of an image, in the shape of a row. Raises `BadRequest`, which calls the image ``where``."""
    try:
        opened, orientation, is_large = _drafted(bytes(encoded), where, image)
        if is_large:
            del opened  # it has a copy of the file, which is not counted while it waits
            yield True
            opened, orientation, _ = _drafted(bytes(encoded), where, image)
        pixels = _read(opened, orientation, image)
    except (BadRequest, MemoryError):
        raise
    except _TooManyReadsError:
        raise BadRequest(f"{where} has more segments, chunks or filling bytes than are read") from None
    except Exception as error:  # what a damaged file makes decoders raise has no base class
        raise BadRequest(f"{where} is damaged: {error}") from error
    return pixels if image.layout == "NHWC" else pixels.transpose(2, 0, 1)


def _drafted(encoded: bytes, where: str, image: ImageInput) -> "tuple[ImageFile, int, bool]":
    """An image whose head alone was read, its orientation, and whether it is large."""
    file = _File(encoded)
    opened = _opened(encoded, file, where)
    orientation = exif_orientation(opened.info.get("exif", b""))
    has_more_scans = encoded.find(_SCAN, file.tell()) >= 0
    pixels = prod(opened.size)
    opened.draft(_MODES[image.channels], _size(image, orientation))  # a JPEG needs not be decoded in its full size
    return opened, orientation, (pixels if has_more_scans else prod(opened.size)) > LARGE_PIXELS


def _read(opened: "ImageFile", orientation: int, image: ImageInput) -> npt.NDArray[np.uint8]:
    from PIL.Image import Resampling, Transpose  # noqa: PLC0415 - only where images are sent

    size = _size(image, orientation)
    with opened:
        whole = opened.convert("RGBA") if opened.mode == "P" else opened
        box = _centre(whole.size, size) if image.resize == "crop" else None
        made = whole.convert(_MODES[image.channels]).resize(size, Resampling.BILINEAR, box)
    if orientation != _UPRIGHT:
        made = made.transpose(Transpose[_TURNS[orientation]])
    return np.asarray(made).reshape(*image.size, image.channels)


def _size(image: ImageInput, orientation: int) -> tuple[int, int]:
    """Width and height that the family wants, before the image is turned."""
    height, width = image.size
    return (height, width) if orientation >= _ON_ITS_SIDE else (width, height)


def exif_orientation(exif: bytes) -> int:
    """How an image is to be turned, from 1 (not at all) to 8, by its EXIF; 1 where that does not say it, or is damaged.

    EXIF is a TIFF file (TIFF 6.0, section 2): only the first directory is looked at, and none of its values is read.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return _UPRIGHT
    try:
        (first,) = struct.unpack_from(f"{order}4xI", tiff)
        (count,) = struct.unpack_from(f"{order}H", tiff, first)
        entries = struct.iter_unpack(f"{order}HHIH2x", tiff[first + 2 : first + 2 + 12 * min(count, MAX_EXIF_ENTRIES)])
    except struct.error:  # cut off
        return _UPRIGHT
    for tag, kind, number, value in entries:
        if tag == _ORIENTATION:
            return int(value) if (kind, number) == (_SHORT, 1) and value in _TURNS else _UPRIGHT
    return _UPRIGHT


def _centre(size: tuple[int, int], shape: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest box (left, upper, right, lower) in the centre of an image of ``size`` with the sides of ``shape``."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    margins = [(whole - scale * side) / 2 for whole, side in zip(size, shape, strict=True)]
    return margins[0], margins[1], size[0] - margins[0], size[1] - margins[1]


class _TooManyReadsError(Exception):
    """More than `MIN_READS` of one file, and more than it has bytes for."""


class _File(BytesIO):
    """A file in memory with a limited number of reads."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._reads_left = MIN_READS + len(content) // BYTES_OF_A_READ

    def read(self, size: int | None = -1) -> bytes:
        self._reads_left -= 1
        if self._reads_left < 0:
            raise _TooManyReadsError
        return super().read(size)


def _opened(encoded: bytes, file: BytesIO, where: str) -> "ImageFile":
    """An image whose head alone was read. Raises `BadRequest` where it is too much to decode, or no image."""
    if len(encoded) > MAX_FILE_BYTES:
        raise BadRequest(f"{where} has {len(encoded)} bytes; at most {MAX_FILE_BYTES} are decoded")
    from PIL.PngImagePlugin import PngImageFile  # noqa: PLC0415 - only where images are sent

    if encoded.startswith(_JPEG):
        if encoded.count(_SCAN) > MAX_SCANS:
            raise BadRequest(f"{where} has more than {MAX_SCANS} scans")
        opened: ImageFile = _jpeg_type()(file)
    elif encoded.startswith(_PNG):
        opened = PngImageFile(file)
    else:
        raise BadRequest(f"{where} is neither JPEG nor PNG")
    width, height = opened.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise BadRequest(
            f"{where} has {width} × {height} pixels; at most {MAX_PIXELS:,} are decoded, and {MAX_SIDE:,} on a side"
        )
    if opened.mode.startswith("I"):
        raise BadRequest(f"{where} has 16 bits for a pixel; 8 are decoded")
    return opened


@cache
def _jpeg_type() -> "type[JpegImageFile]":
    """Files of JPEG whose EXIF only `exif_orientation` reads."""
    from PIL.Image import Exif  # noqa: PLC0415 - only where images are sent
    from PIL.JpegImagePlugin import JpegImageFile  # noqa: PLC0415 - like above

    class WithoutExif(JpegImageFile):
        def getexif(self) -> Exif:
            """Empty: Pillow would read all entries for a resolution that is not used."""
            return Exif()

    return WithoutExif
