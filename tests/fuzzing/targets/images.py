"""Target `images`: a JPEG or PNG file, as a request has it in place of pixels.

It is decoded in a thread, and no event loop waits for it. But what Pillow does in Python holds up the loop, too, so
time is watched; pixels, which are decoded without the GIL, are few.
"""

from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from random import Random
from typing import Any
from unittest import mock

import numpy as np
from fuzzing.mutations.images import mutated_image
from fuzzing.targets.target import Target
from fuzzing.watch import Watch
from PIL import Image

from proteus_cli.domain.catalog import ImageInput
from proteus_cli.errors import BadRequest
from proteus_cli.serving.oip import images

MAX_PIXELS = 2**20  # in place of 33 million
_WANTED = ImageInput(size=(24, 32), resize="crop")


class Images(Target):
    def play(self, content: bytes, watch: Watch) -> None:
        with suppress(BadRequest):
            watch.call(_decode, content)

    def accepts(self, content: bytes) -> bool:
        try:
            _decode(content)
        except BadRequest:
            return False
        return True

    def seeds(self) -> Mapping[str, bytes]:
        exif = Image.Exif()
        exif[0x010F], exif[0x0112], exif[0x011A], exif[0x0128] = "maker", 6, 72.0, 2
        return {
            "jpeg": _encoded("JPEG", exif=exif, dpi=(72, 72)),
            "jpeg-progressive": _encoded("JPEG", progressive=True, comment=b"a comment"),
            "jpeg-grey": _encoded("JPEG", "L"),
            "png": _encoded("PNG", exif=exif),
            "png-palette": _encoded("PNG", "P", transparency=b"\0\x80"),
            "png-alpha": _encoded("PNG", "RGBA", icc_profile=bytes(200)),
        }

    def mutate(self, content: bytes, rng: Random) -> bytes:
        return mutated_image(content, rng)


def _decode(content: bytes) -> None:
    packed = len(content).to_bytes(4, "little") + content
    with mock.patch.object(images, "MAX_PIXELS", MAX_PIXELS):
        (pixels,) = images.drained(images.read_images(packed, 1, _WANTED))
    assert len(pixels) == 24 * 32 * 3, f"{len(pixels)} bytes of pixels"


def _encoded(kind: str, mode: str = "RGB", **how: Any) -> bytes:
    made = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(made, kind, **how)
    return made.getvalue()
