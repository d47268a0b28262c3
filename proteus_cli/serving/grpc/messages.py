"""The messages of the protocol, in a descriptor pool of their own.

A process that also imports another copy of the same `.proto` files (a client, say) would otherwise register each name
twice, which protobuf refuses. `protocol/descriptors.binpb` is made by ``make proto``.
"""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from proteus_cli.buffers import Buffer
from proteus_cli.errors import BadRequest

DESCRIPTORS = Path(__file__).parent / "protocol" / "descriptors.binpb"

FILES = tuple(descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file)
_pool = descriptor_pool.DescriptorPool()
for _file in FILES:
    _pool.Add(_file)


def message(name: str) -> Any:
    """The class of a message, by its full name."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(name))


def parsed(kind: Any, content: Buffer, what: str = "what this method takes") -> Any:
    """The message of that class. Raises `BadRequest`."""
    try:
        return kind.FromString(content)
    except DecodeError:
        raise BadRequest(f"the message is not {what}") from None


def file_of(symbol: str) -> str:
    """The name of the file that defines a symbol. Raises `KeyError`."""
    try:
        return str(_pool.FindFileContainingSymbol(symbol).name)
    except KeyError:
        return str(_pool.FindMethodByName(symbol).containing_service.file.name)


def services() -> list[str]:
    """The full names of all services."""
    return [f"{file.package}.{service.name}" for file in FILES for service in file.service]


ModelInferRequest = message("inference.ModelInferRequest")
ModelInferResponse = message("inference.ModelInferResponse")
ModelStreamInferResponse = message("inference.ModelStreamInferResponse")
ReflectionRequest = message("grpc.reflection.v1.ServerReflectionRequest")
ReflectionResponse = message("grpc.reflection.v1.ServerReflectionResponse")
