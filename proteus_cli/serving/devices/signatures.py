"""The signatures of families, read from the ONNX files of their models."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from proteus_cli.backends import emulated
from proteus_cli.backends.base import Backend, Signature
from proteus_cli.backends.registry import open_backend
from proteus_cli.domain.catalog import Family, VariantKey
from proteus_cli.domain.device import Device

ModelPaths = Mapping[VariantKey, Path]

_READER = Device("reader", "cpu", "cpu", "reads signatures", memory_bytes=0, cores=(0,))


def open_reader() -> Backend:
    """The backend that reads signatures: the ONNX file has them, whichever backend runs the model."""
    return open_backend(_READER)


def signature_of(family: Family, models: ModelPaths, reader: Backend | None = None) -> Signature:
    """The signature of a family, from the ONNX file of its first variant."""
    return _signature(reader or open_reader(), models, VariantKey(family.name, family.variants[0].name))


def signature_or_stub(family: Family, models: ModelPaths, reader: Backend | None = None) -> tuple[Signature, bool]:
    """The signature of an emulated family: of any of its models; made up (True) where there is none."""
    for variant in family.variants:
        key = VariantKey(family.name, variant.name)
        if key in models:
            return _signature(reader or open_reader(), models, key), False
    return emulated.STUB, True


def signature_of_file(model: Path, key: VariantKey) -> Signature:
    """The signature of a model, from its ONNX file. Raises `EngineError` where it can't be read."""
    return _signature(open_reader(), {key: model}, key)


def _signature(backend: Backend, models: ModelPaths, key: VariantKey) -> Signature:
    with backend.runner(models[key], key) as runner:
        return replace(runner.signature, notes=())  # what single variants say besides is no matter of the family
