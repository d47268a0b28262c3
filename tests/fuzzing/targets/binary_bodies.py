"""Target `binary`: JSON and binary tensors, behind a line with the value of Inference-Header-Content-Length."""

import json
from collections.abc import Mapping
from random import Random
from typing import Any

from fuzzing.in_process.http1_messages import described, post, statuses, tensors
from fuzzing.in_process.server import MAX_ROWS, SIGNATURES, Client, Server
from fuzzing.mutations.text import TextMutations
from fuzzing.targets.json_bodies import HEAVY, LIGHT
from fuzzing.targets.target import WireTarget

_STRAY_FRAC = 0.1  # mutations after which the length is not that of the JSON
_LENGTHS = (b"0", b"-1", b"1", b"00", b"+5", b"4294967296", b"9" * 19, b"9" * 5_000, b"1e3", b"", b" 7", b"7, 7")
_LONGEST_LENGTH = 20
_SIZES = (1, 4, 8, 100, 65_536)


class BinaryBodies(WireTarget):
    def __init__(self) -> None:
        super().__init__()
        heads = [_parts(seed)[0] for seed in self.seeds().values()]
        self._mutate_json = TextMutations(LIGHT, HEAVY, heads, b",")

    async def converse(self, server: Server, content: bytes) -> None:
        length, _, body = content.partition(b"\n")
        headers = b"inference-header-content-length: %b\r\n" % length
        for family in SIGNATURES:
            client = Client(server, "http")
            await client.send(post(family, body, headers))
            await server.settle()
            client.close()
            assert statuses(client.writes)
        await server.settle()

    def seeds(self) -> Mapping[str, bytes]:
        return {
            **{family: binary_request(family) for family in SIGNATURES},
            "rows": binary_request("kinds", MAX_ROWS, parameters={"binary_data_output": True}),
            "largest": binary_request("large", MAX_ROWS),
            "mixed": binary_request("small", in_json=("k",), id="a"),
        }

    def mutate(self, content: bytes, rng: Random) -> bytes:
        text, values = _parts(content)
        if rng.random() < _STRAY_FRAC:
            return b"%b\n%b%b" % (rng.choice(_LENGTHS), text, values)
        if rng.random() < 0.5:
            text = self._mutate_json(text, rng)
        else:
            size, at = rng.choice(_SIZES), rng.randint(0, len(values))
            values = values[:at] + rng.choice((b"", rng.randbytes(size))) + values[rng.choice((at, at + size)) :]
        return b"%d\n%b%b" % (len(text), text, values)


def binary_request(family: str, rows: int = 1, *, in_json: tuple[str, ...] = (), **more: Any) -> bytes:
    """A request whose values follow its JSON, but for some inputs."""
    inputs, values = [], b""
    for name, array in tensors(SIGNATURES[family], rows).items():
        if name in in_json:
            inputs.append({**described(name, array), "data": array.tolist()})
        else:
            inputs.append({**described(name, array), "parameters": {"binary_data_size": array.nbytes}})
            values += array.tobytes()
    text = json.dumps({"inputs": inputs, **more}).encode()
    return b"%d\n%b%b" % (len(text), text, values)


def _parts(content: bytes) -> tuple[bytes, bytes]:
    """The JSON and the values of an input."""
    length, _, body = content.partition(b"\n")
    size = int(length) if length.isdigit() and len(length) < _LONGEST_LENGTH else len(body)
    return body[:size], body[size:]
