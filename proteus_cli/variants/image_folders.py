"""Makes an eval split of a folder of images: ``FOLDER/CLASS/*.jpg`` or ``*.png``, a folder for each class."""

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from zipfile import ZIP_STORED

import numpy as np

from proteus_cli.backends.base import Signature
from proteus_cli.domain.base import checked
from proteus_cli.domain.catalog import ImageInput, Layout
from proteus_cli.errors import ArtefactError, BadRequest
from proteus_cli.input_files import FileKind, looking, read_bytes
from proteus_cli.serving.oip.images import MAX_FILE_BYTES, decoded, drained
from proteus_cli.store.samples.chunk import write_arrays
from proteus_cli.units import counted, format_size

MAX_PIXEL_BYTES = 2**29
"""Maximum size of all images as the model takes them: 3,566 in colour of 224 × 224."""
_IMAGE = FileKind("an image", MAX_FILE_BYTES)
_SUFFIXES = {".jpg", ".jpeg", ".png"}
_IMAGE_AXES = 3
_HINT = "each class has a folder with its JPEG and PNG files: FOLDER/CLASS/*.jpg, *.png"


def split_of_folder(folder: Path, signature: Signature) -> bytes:
    """The content of an eval split for models with this signature. Raises `ArtefactError`.

    ``x`` has pixels in UINT8, in the size and layout of the model's input. Classes in the order of their folders' names
    have the labels ``y`` from 0.
    """
    image = _image_of(folder, signature)
    by_class = _files(folder)
    scores = signature.outputs[0].shape[-1:]
    if scores not in {(), (None,), (len(by_class),)}:
        raise ArtefactError(
            f"`{folder}` has {counted(len(by_class), 'folder')} of classes; the models have {scores[0]} scores.",
            hint="each score needs a folder, empty for a class without images: their order gives the labels",
        )
    paths = [path for paths in by_class for path in paths]
    most = MAX_PIXEL_BYTES // int(np.prod(image.shape))
    if len(paths) > most:
        raise ArtefactError(
            f"`{folder}` has {len(paths):,} images; {most:,} of this size fit {format_size(MAX_PIXEL_BYTES)}.",
            hint="leave some images of each class out",
        )
    x = np.empty((len(paths), *image.shape), np.uint8)
    for row, path in enumerate(paths):
        try:
            encoded = read_bytes(path, _IMAGE, hint="remove it from the folder")
            x[row] = drained(decoded(encoded, f"`{path}`", image))
        except BadRequest as error:
            raise ArtefactError(f"{error}.", hint="replace the file, or remove it from the folder") from None
    content = io.BytesIO()
    y = np.repeat(np.arange(len(by_class)), [len(paths) for paths in by_class])
    write_arrays(content, {"x": x, "y": y}, compression=ZIP_STORED)
    return content.getvalue()


def _image_of(folder: Path, signature: Signature) -> ImageInput:
    """The input of models of images. Raises `ArtefactError` for other models."""
    axes: tuple[tuple[int, int, int, Layout], ...] = ((0, 1, 2, "NHWC"), (1, 2, 0, "NCHW"))
    for height, width, channels, layout in axes:
        sizes = signature.inputs[0].sizes
        if len(signature.inputs) == 1 and len(sizes) == _IMAGE_AXES and sizes[channels] in {1, 3}:
            with suppress(ValueError):  # too large for an image
                return checked(ImageInput((sizes[height], sizes[width]), layout=layout, channels=sizes[channels]))
    taken = ", ".join(spec.shape_text for spec in signature.inputs)
    raise ArtefactError(
        f"Images in `{folder}` don't fit the models: these take {taken}.",
        hint="models of images have one input of height, width and 1 or 3 channels; for others, name an .npz",
    )


def _files(folder: Path) -> Sequence[Sequence[Path]]:
    """The images of each class, in order. Hidden files and files that are no images are left out."""
    with looking():
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        if beside := [path for path in entries if path.suffix.lower() in _SUFFIXES and not path.is_dir()]:
            raise ArtefactError(f"`{beside[0]}` is in no folder of a class.", hint=_HINT)
        found = [sorted(path for path in each.iterdir() if _is_image(path)) for each in entries if each.is_dir()]
    if not any(found):
        raise ArtefactError(f"`{folder}` has no folders with images.", hint=_HINT)
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
