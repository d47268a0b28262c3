"""Target `json`: a body of an inference request, for each family; one that begins as gzip is sent as that."""

import json
from collections.abc import Mapping
from random import Random
from typing import Any

from fuzzing.in_process.http1_messages import described, post, statuses, tensors
from fuzzing.in_process.server import MAX_ROWS, SIGNATURES, Client, Server
from fuzzing.mutations.archives import GZIP, gunzipped, gzipped
from fuzzing.mutations.text import TextMutations
from fuzzing.targets.target import WireTarget

from proteus_cli.serving.oip.tensors import DATATYPE_OF

_DEEP = 20_000
_PACKED_FRAC = 0.1

LIGHT = (
    b"0", b"-0", b"1", b"-1", b"0.5", b"1e308", b"-1e400", b"1e-400", b"9223372036854775807", b"9223372036854775808",
    b"18446744073709551616", b"NaN", b"Infinity", b"true", b"false", b"null", b'""', b'"x"', b'"\\u0000"', b'"\\ud800"',
    b'"\xff"', '"\U0001f600"'.encode(), b"[]", b"{}", b"[[]]", b'{"a":1,"a":2}', b",", b":", b"[", b"]", b"{", b"}",
    *(f'"{name}"'.encode() for name in (
        "inputs", "outputs", "parameters", "id", "name", "shape", "datatype", "data", "timeout", "priority",
        "min_accuracy", "min_confidence", "max_energy_j", "min_expected_accuracy", "binary_data_size", "binary_data",
        "binary_data_output", "classification", "shared_memory_region", "sequence_id", "BYTES", *DATATYPE_OF.values(),
    )),
)  # fmt: skip
HEAVY = (
    *(b'"%b"' % (b"x" * length) for length in (100, 1_000, 20_000, 200_000)),
    b'"%s"' % ("\U0001f600" * 5_000).encode(), b'"%b"' % (b"\\u0000" * 5_000),
    b"1" * 5_000, b"1e" + b"9" * 500, b"0." + b"0" * 5_000 + b"1", b" " * 10_000,
    b"[" * _DEEP, b"]" * _DEEP, b"[" * _DEEP + b"]" * _DEEP, b"[" * 100 + b"]" * 100, b'{"a":' * _DEEP, b"[1]," * _DEEP,
)  # fmt: skip


class JsonBodies(WireTarget):
    def __init__(self) -> None:
        super().__init__()
        self._mutations = TextMutations(LIGHT, HEAVY, [*self.seeds().values()], b",")

    async def converse(self, server: Server, content: bytes) -> None:
        encoding = b"content-encoding: gzip\r\n" if content.startswith(GZIP) else b""
        for family in SIGNATURES:
            client = Client(server, "http")
            await client.send(post(family, content, encoding))
            await server.settle()
            client.close()
            assert len(statuses(client.writes)) == 1
        await server.settle()

    def seeds(self) -> Mapping[str, bytes]:
        small = infer_request("small")
        options = {
            "id": "a",
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
            "parameters": {"timeout": 10_000_000, "priority": 1, "min_accuracy": 0.5, "binary_data_output": True},
        }
        return {
            **{family: _encoded(infer_request(family)) for family in SIGNATURES},
            "largest": _encoded(infer_request("large", MAX_ROWS)),
            "gzip": gzipped(_encoded(infer_request("large"))),
            "options": _encoded(small | options),
            "rows": _encoded(infer_request("kinds", MAX_ROWS)),
        }

    def mutate(self, content: bytes, rng: Random) -> bytes:
        content = self._mutations(gunzipped(content), rng)
        return gzipped(content) if rng.random() < _PACKED_FRAC else content


def infer_request(family: str, rows: int = 1) -> dict[str, Any]:
    """The JSON of a request whose values are nested as its shapes are."""
    values = tensors(SIGNATURES[family], rows)
    return {"inputs": [{**described(name, array), "data": array.tolist()} for name, array in values.items()]}


def _encoded(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()
