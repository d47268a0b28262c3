"""Images become the pixels of their family's input; what is too much is refused undecoded, what is damaged as such."""

import asyncio
import json
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from small_plane import SmallPlane
from tritonclient.grpc import service_pb2

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.domain.catalog import ImageInput
from proteus_cli.errors import BadRequest, BodyTooLarge
from proteus_cli.serving.grpc.codec import GrpcCodec
from proteus_cli.serving.oip import images
from proteus_cli.serving.oip.images import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    MAX_SCANS,
    MAX_SIDE,
    Steps,
    drained,
    exif_orientation,
    image_rows,
    in_threads,
    read_images,
)
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.requests.query import InThreads, Query
from proteus_cli.serving.rest.codec.codec import RestCodec

WANTED = ImageInput(size=(4, 6))
CROPPED = ImageInput(size=(4, 6), resize="crop")
GREY = ImageInput(size=(4, 6), channels=1)
SIGNATURE = Signature(
    (TensorSpec("image", np.dtype(np.uint8), WANTED.shape),), (TensorSpec("y", np.dtype(np.float32), (3,)),)
)
RED, BLUE = (200, 30, 10), (10, 40, 220)


def encoded(kind: str, mode: str = "RGB", colour: Any = RED, size: tuple[int, int] = (12, 8), **how: Any) -> bytes:
    """An image of one colour; ``size`` is (width, height)."""
    made = BytesIO()
    Image.new(mode, size, colour).save(made, kind, **how)
    return made.getvalue()


def packed(*each: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(image)) + image for image in each)


def read(*each: bytes, image: ImageInput = WANTED) -> npt.NDArray[np.uint8]:
    (pixels,) = drained(read_images(packed(*each), len(each), image))
    return np.frombuffer(pixels, np.uint8).reshape(len(each), *image.shape)


def png(width: int, height: int, data: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    """A PNG by hand, which may claim anything."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


# --- what is right


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_become_rows_of_the_familys_size(kind: str) -> None:
    found = read(encoded(kind), encoded(kind, colour=BLUE, size=(6, 4)))
    assert found.shape == (2, 4, 6, 3)
    for row, colour in zip(found, (RED, BLUE), strict=True):
        assert np.abs(row.astype(int) - colour).max() <= 3


def test_pixels_are_in_their_place() -> None:
    there = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    made = BytesIO()
    Image.fromarray(there).save(made, "PNG")
    np.testing.assert_array_equal(read(made.getvalue())[0], there)
    first = ImageInput(size=(4, 6), layout="NCHW")
    np.testing.assert_array_equal(read(made.getvalue(), image=first)[0], there.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("kind", "mode", "colour", "how"),
    [
        ("PNG", "RGBA", (*RED, 0), {}), ("PNG", "P", 0, {"transparency": b"\0"}), ("PNG", "L", 7, {}),
        ("PNG", "LA", (7, 0), {}), ("PNG", "1", 1, {}), ("JPEG", "L", 7, {}), ("JPEG", "CMYK", (0, 0, 0, 9), {}),
        ("JPEG", "RGB", RED, {"progressive": True}),
    ],
)  # fmt: skip
def test_images_of_any_mode_become_the_familys_channels(kind: str, mode: str, colour: Any, how: Any) -> None:
    for image in (WANTED, GREY):
        assert read(encoded(kind, mode, colour, **how), image=image).shape == (1, *image.shape)


def test_a_large_image_is_decoded() -> None:
    assert np.abs(read(encoded("JPEG", size=(4000, 3000)))[0].astype(int) - RED).max() <= 3


# --- how it is turned, and cut


def numbered(width: int, height: int) -> Image.Image:
    """An image of which no two pixels are alike."""
    return Image.fromarray(np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(orientation: int, order: str) -> None:
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "a maker of cameras"
    exif[0x0112] = orientation
    made = BytesIO()
    numbered(*((6, 4) if orientation < 5 else (4, 6))).save(made, "PNG", exif=exif)
    there = ImageOps.exif_transpose(Image.open(BytesIO(made.getvalue())))
    np.testing.assert_array_equal(read(made.getvalue())[0], np.asarray(there))


@pytest.mark.parametrize(
    "exif",
    [
        b"", b"Exif\0\0", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\x05\0\x12\x01\x03\0",
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0",
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x06",
        b"MM\0*\0\0\0\x08\0\0\x01\x12\0\x03\0\0\0\x01\0\x06\0\0",
    ],
    ids=repr,
)  # fmt: skip
def test_an_image_whose_exif_says_nothing_is_not_turned(exif: bytes) -> None:
    """Cut off, of another type, an orientation that there is not, an entry behind the last one."""
    assert exif_orientation(exif) == 1


@given(st.binary(max_size=64))
def test_no_exif_is_too_broken(content: bytes) -> None:
    assert 1 <= exif_orientation(b"II*\0" + content) <= 8


@pytest.mark.parametrize(
    ("size", "kept"), [((10, 4), (2, 0, 8, 4)), ((6, 8), (0, 2, 6, 6)), ((6, 4), (0, 0, 6, 4))], ids=str
)
def test_an_image_is_cropped_to_the_shape_of_its_family(size: tuple[int, int], kept: tuple[int, ...]) -> None:
    made, whole = BytesIO(), numbered(*size)
    whole.save(made, "PNG")
    expected = np.asarray(whole)[kept[1] : kept[3], kept[0] : kept[2]]
    np.testing.assert_array_equal(read(made.getvalue(), image=CROPPED)[0], expected)
    large = BytesIO()
    whole.resize((50 * size[0], 50 * size[1]), Image.Resampling.NEAREST).save(large, "JPEG", quality=100, subsampling=0)
    assert np.abs(read(large.getvalue(), image=CROPPED)[0].astype(int) - expected).max() <= 5


# --- what is too much, or damaged


MANY = 2**16
UNREAD = b"\xff\xe9\x00\x02"  # a segment without content


@pytest.mark.parametrize("pieces", [MANY * b"\xff", MANY * UNREAD], ids=["filling", "segments"])
def test_a_jpeg_of_many_pieces_is_refused(pieces: bytes) -> None:
    """Pillow goes through them in Python: 16 MiB took 10 seconds."""
    image = encoded("JPEG")
    with pytest.raises(BadRequest, match="image 0 of input `image` has more segments, chunks or filling bytes than"):
        read(image[:2] + pieces + image[2:])
    assert len(read(image[:2] + 40 * b"\xff" + 40 * UNREAD + image[2:])) == 1


@pytest.mark.parametrize("name", [b"IDAT", b"abCd"])
@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
def test_a_png_of_many_chunks_is_refused(name: bytes, before: bytes) -> None:
    image, chunk = encoded("PNG"), struct.pack(">I4sI", 0, name, zlib.crc32(name))
    at = image.index(before) - 4
    with pytest.raises(BadRequest, match="image 0 of input `image` has more segments, chunks or filling bytes than"):
        read(image[:at] + MANY * chunk + image[at:])
    assert len(read(image[:at] + 400 * chunk + image[at:])) == 1


def test_pillow_does_not_read_the_exif_of_a_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks for the resolution there, and reads all entries: 65,535 of them may stand in a file."""
    exif = Image.Exif()
    exif[0x0112] = 3
    made = BytesIO()
    numbered(6, 4).save(made, "JPEG", exif=exif)
    image = made.getvalue()
    head = image.index(b"\xff\xe1")  # without JFIF, which has a resolution
    monkeypatch.setattr(Image.Exif, "load", None)
    assert len(read(image[:2] + image[head:])) == 1


@pytest.mark.parametrize(
    ("damaged", "problem"),
    [
        (b"", "neither JPEG nor PNG"), (b"GIF89a" + 40 * b"\0", "neither JPEG nor PNG"), (b"hello", "neither"),
        (b"\xff\xd8\xff", "is damaged"), (b"\x89PNG\r\n\x1a\n", "is damaged"),
        (encoded("JPEG", size=(64, 64))[:-200], "is damaged"), (encoded("PNG")[:-30], "is damaged"),
        (png(8, 8), "is damaged"), (png(0, 8), "is damaged"), (png(8, 8, 200 * b"\0", depth=3), "is damaged"),
        (png(2**31 - 1, 2**31 - 1), "pixels; at most"), (png(MAX_PIXELS // 2, 3), "pixels; at most"),
        (png(8, 8, 8 * 17 * b"\0", depth=16, colour=0), "has 16 bits for a pixel"),
        (encoded("JPEG") + (MAX_SCANS + 1) * b"\xff\xda", "more than 100 scans"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_can_not_be_decoded_is_refused_by_its_row(damaged: bytes, problem: str) -> None:
    with pytest.raises(BadRequest, match=problem) as refused:
        read(encoded("PNG"), damaged)
    assert refused.value.message.startswith("image 1 of input `image`")


def test_a_request_may_have_a_file_for_each_row_and_no_more_json_than_without() -> None:
    codec, plain = RestCodec("m", SIGNATURE, 2, image=WANTED), RestCodec("m", SIGNATURE, 2)
    assert codec.max_bytes == 2 * (4 + MAX_FILE_BYTES) + 65536
    assert codec.max_json_bytes == plain.max_json_bytes == plain.max_bytes
    assert RestCodec("m", SIGNATURE, 2, image=ImageInput(size=(4, 6), channels=2)).max_bytes == plain.max_bytes
    large = encoded("PNG") + bytes(2**20)  # what follows an image is not read
    assert over_rest(packed(large), [1])[0].rows == 1
    for length in (None, codec.max_json_bytes + 1):
        with pytest.raises(BodyTooLarge, match=f"may have at most {codec.max_json_bytes} bytes of JSON"):
            codec.decode(bytes(codec.max_json_bytes + 1), length)


@pytest.mark.parametrize("size", [(100_000, 100_000), (1, MAX_PIXELS), (MAX_PIXELS, 1), (1, MAX_SIDE + 1)], ids=str)
def test_nothing_is_decoded_of_an_image_that_claims_too_many_pixels(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PNG of 1 × 2²⁵ took 1.5 GB: a pointer for each row."""
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(BadRequest, match="pixels; at most 33,554,432 are decoded, and 65,535 on a side"):
        read(png(*size))


def test_an_image_may_have_the_longest_side() -> None:
    assert len(read(encoded("PNG", size=(1, MAX_SIDE)), encoded("PNG", size=(MAX_SIDE, 1)))) == 2


@given(st.sampled_from([encoded("JPEG", size=(24, 16)), encoded("PNG", size=(24, 16))]), st.data())
def test_a_damaged_image_is_decoded_or_refused(image: bytes, data: st.DataObject) -> None:
    content = bytearray(image)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert read(bytes(content[: data.draw(st.integers(0, len(content)))])).shape == (1, 4, 6, 3)
    except BadRequest as error:
        assert "image 0 of input `image`" in error.message  # noqa: PT017 - either is right


@pytest.mark.parametrize(
    "content",
    [b"", b"\1\0\0", packed(b"x"), packed(encoded("PNG")) + b"\0", packed(*3 * [encoded("PNG")]), b"\xff\xff\xff\xff"],
    ids=len,
)
def test_images_must_be_as_many_as_rows(content: bytes) -> None:
    with pytest.raises(BadRequest, match=r"must hold 2 images, each behind its length|neither JPEG nor PNG"):
        drained(read_images(content, 2, WANTED))


@pytest.mark.parametrize("shape", [[], [0], [-1], [2, 2], [1, 1, 1], [0, 1]], ids=str)
def test_the_shape_of_images_is_one_for_each_row(shape: list[int]) -> None:
    with pytest.raises(BadRequest, match=r"must have shape \[rows\]"):
        image_rows("image", shape)
    assert image_rows("image", [3]) == image_rows("image", [3, 1]) == 3


# --- requests

Decode = Callable[..., tuple[Query, Any]]


def over_rest(
    content: bytes, shape: Sequence[int], image: ImageInput | None = WANTED, **more: Any
) -> tuple[Query, Any]:
    tensor = {"name": "image", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": len(content)}}
    head = json.dumps({"inputs": [tensor], **more}).encode()
    found = RestCodec("f", SIGNATURE, 8, image=image).decode(head + content, len(head))
    assert isinstance(found, tuple)
    return found


def over_grpc(
    content: bytes, shape: Sequence[int], image: ImageInput | None = WANTED, **more: Any
) -> tuple[Query, Any]:
    plane = SmallPlane()
    plane.by_name["f"] = ServedFamily("f", SIGNATURE, 0.1, 8, 0.75, image=image)
    request = service_pb2.ModelInferRequest(model_name="f", **more)
    request.inputs.add(name="image", datatype="BYTES", shape=shape)
    request.raw_input_contents.append(content)
    return GrpcCodec(plane).decode(request.SerializeToString(), None)  # type: ignore[arg-type]


by_each_protocol = pytest.mark.parametrize("decode", [over_rest, over_grpc])


@by_each_protocol
@pytest.mark.parametrize("more", [{}, {"id": "a"}])
def test_a_request_may_have_images_in_place_of_pixels(decode: Decode, more: Any) -> None:
    query, read_inputs = decode(packed(encoded("PNG"), encoded("JPEG")), [2, 1], **more)
    assert (query.rows, query.id) == (2, more.get("id"))
    assert isinstance(read_inputs, InThreads)
    assert read_inputs.memory_bytes == 2 * 4 * 6 * 3
    (pixels,) = drained(read_inputs.steps)
    assert len(pixels) == 2 * 4 * 6 * 3


@by_each_protocol
@pytest.mark.parametrize("image", [None, ImageInput(size=(4, 6), channels=4)], ids=["no input", "four channels"])
def test_a_family_without_images_refuses_strings(decode: Decode, image: ImageInput | None) -> None:
    with pytest.raises(BadRequest, match=r"strings \(BYTES\) are not served; input `image` must have datatype UINT8"):
        decode(packed(encoded("PNG")), [1], image)


def test_images_in_json_are_refused() -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["iVBORw0KGgo="]}
    with pytest.raises(BadRequest, match="images are not taken in JSON"):
        RestCodec("f", SIGNATURE, 8, image=WANTED).decode(json.dumps({"inputs": [tensor]}).encode(), None)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_body_of_a_request_may_be_an_image(kind: str) -> None:
    query, read_inputs = RestCodec("f", SIGNATURE, 8, image=WANTED).decode_image(encoded(kind))
    assert (query.rows, query.id) == (1, None)
    assert isinstance(read_inputs, InThreads)
    (pixels,) = drained(read_inputs.steps)
    assert (np.frombuffer(pixels, np.uint8).reshape(1, 4, 6, 3) == read(encoded(kind))).all()


@pytest.mark.parametrize("image", [None, ImageInput(size=(4, 6), channels=4)], ids=["no input", "four channels"])
def test_a_family_without_images_refuses_a_body_that_is_one(image: ImageInput | None) -> None:
    with pytest.raises(BadRequest, match="`f` takes no images"):
        RestCodec("f", SIGNATURE, 8, image=image).decode_image(encoded("PNG"))


# --- threads


def counting(threads: set[str]) -> Steps[int]:
    for _ in range(3):
        threads.add(threading.current_thread().name)
        yield False
    return 7


def test_the_steps_of_images_run_in_threads() -> None:
    threads = set[str]()
    assert asyncio.run(in_threads(InThreads(counting(threads), 0))) == 7
    assert threads
    assert all(name.startswith("images") for name in threads)


def test_a_request_that_ends_while_an_image_is_read_has_no_other_one_read() -> None:
    """Its deadline has passed, or its client is gone: its task is cancelled."""
    is_reading, may_end, read_count = threading.Event(), threading.Event(), list[int]()

    def steps() -> Steps[int]:
        for number in range(3):
            read_count.append(number)
            is_reading.set()
            may_end.wait(60.0)
            yield False
        return 7

    async def cancelled() -> None:
        task = asyncio.create_task(in_threads(InThreads(steps(), 0)))
        await asyncio.to_thread(is_reading.wait, 60.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_end.set()

    asyncio.run(cancelled())
    assert read_count == [0]


def test_steps_that_are_large_run_one_at_a_time_and_hold_no_others_up() -> None:
    may_end, running, at_once = threading.Event(), list[int](), list[int]()

    def large(number: int) -> Steps[int]:
        yield True
        running.append(number)
        at_once.append(len(running))
        may_end.wait(60.0)
        running.remove(number)
        return number

    async def beside() -> list[int]:
        all_large = [asyncio.create_task(in_threads(InThreads(large(number), 0))) for number in range(4)]
        while not running:
            await asyncio.sleep(0)
        assert await in_threads(InThreads(counting(set()), 0)) == 7
        assert not any(task.done() for task in all_large)
        may_end.set()
        return await asyncio.gather(*all_large)

    assert asyncio.run(beside()) == [0, 1, 2, 3]
    assert at_once == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("content", "is_large"),
    [
        (encoded("PNG", size=(65, 64)), True), (encoded("PNG", size=(64, 64)), False),
        (encoded("JPEG", size=(400, 300)), False), (encoded("JPEG", size=(65, 64), progressive=True), True),
        (encoded("JPEG", size=(64, 64), progressive=True), False), (png(65, 64), True),
    ],
    ids=[
        "PNG", "small PNG", "JPEG that is scaled", "progressive JPEG", "small progressive JPEG", "damaged PNG",
    ],
)  # fmt: skip
def test_a_pause_comes_before_a_large_image(content: bytes, *, is_large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGE_PIXELS", 64 * 64)
    with monkeypatch.context() as undecoded:
        if is_large:
            undecoded.setattr(Image.Image, "load", None)
        steps = read_images(packed(content), 1, WANTED)
        assert next(steps) is is_large


def test_what_a_step_raises_is_raised() -> None:
    with pytest.raises(BadRequest, match="neither"):
        asyncio.run(in_threads(InThreads(read_images(packed(b"x"), 1, WANTED), 0)))


def test_memory_that_runs_out_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_memory(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "_opened", without_memory)
    with pytest.raises(MemoryError):
        read(encoded("PNG"))
