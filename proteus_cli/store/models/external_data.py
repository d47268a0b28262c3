"""Finds the files in which an ONNX file keeps its weights (external data).

Only the fields of ONNX's format that lead to them are described here (onnx.proto of IR version 3 and later, which never
renumbers a field); protobuf skips all others. The package `onnx` isn't needed to run models.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from proteus_cli.errors import ArtefactError

LOCATION = "location"  # the key of the file's name, relative to the directory of the model

_FIELDS = {
    "Model": {"graph": (7, "Graph"), "training": (20, "[]Training"), "functions": (25, "[]Function")},
    "Training": {"initialization": (1, "Graph"), "algorithm": (2, "Graph")},
    "Function": {"nodes": (7, "[]Node")},
    "Graph": {"nodes": (1, "[]Node"), "initializers": (5, "[]Tensor"), "sparse_initializers": (15, "[]SparseTensor")},
    "Node": {"attributes": (5, "[]Attribute")},
    "Attribute": {
        "tensor": (5, "Tensor"), "graph": (6, "Graph"), "tensors": (10, "[]Tensor"), "graphs": (11, "[]Graph"),
        "sparse_tensor": (22, "SparseTensor"), "sparse_tensors": (23, "[]SparseTensor"),
    },
    "SparseTensor": {"values": (1, "Tensor"), "indices": (2, "Tensor")},
    "Tensor": {"external_data": (13, "[]Entry")},
    "Entry": {"key": (1, "string"), "value": (2, "string")},
}  # fmt: skip


def external_files(model: Path, content: bytes) -> tuple[Path, ...]:
    """The files that hold tensors of an ONNX file, each once, in order of their names.

    Empty where ``content`` is no ONNX file; loading it reports that. Raises `ArtefactError` where a file is missing, or
    is not below the directory of the model.
    """
    if LOCATION.encode() not in content:  # nearly all models, and protobuf takes its time to import
        return ()
    return tuple(_found(model, location) for location in sorted(set(_locations(content))))


def _found(model: Path, location: str) -> Path:
    path, hint = model.parent / location, "put it where whoever exported the model had it, or export the model anew"
    parts = PurePosixPath(location)
    if parts.is_absolute() or ".." in parts.parts:
        raise ArtefactError(f"`{model}` keeps weights in `{location}`, outside of its own directory.", hint=hint)
    if not path.is_file():
        raise ArtefactError(f"`{model}` keeps weights in `{location}`, and there is no file `{path}`.", hint=hint)
    return path


def _locations(content: bytes) -> Iterator[str]:
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - heavy, so only when needed

    model = _message("Model")
    try:
        model.ParseFromString(content)
    except DecodeError:
        return
    yield from _within(model)


def _within(message: Any) -> Iterator[str]:
    """The locations of all tensors in a message, at any depth."""
    if message.DESCRIPTOR.name == "Entry":
        if message.key == LOCATION:
            yield message.value
        return
    for _, value in message.ListFields():
        is_one = hasattr(value, "DESCRIPTOR")  # else a container of messages
        for each in (value,) if is_one else value:
            yield from _within(each)


def _message(name: str) -> Any:
    """An empty message, in a pool of its own: the process may hold another description of ONNX's format."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # noqa: PLC0415 - heavy, too

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="external_data.proto", package="proteus.onnx", syntax="proto2")
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for field, (number, kind) in fields.items():
            label = kinds.LABEL_REPEATED if kind.startswith("[]") else kinds.LABEL_OPTIONAL
            added = described.field.add(name=field, number=number, label=label, type=kinds.TYPE_STRING)
            if kind != "string":
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".proteus.onnx.{kind.removeprefix('[]')}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"proteus.onnx.{name}"))()
