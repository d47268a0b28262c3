"""Target `http1`: all that a client sends on one connection of HTTP/1.1, to a server with tokens and one without.

The bytes come in pieces that depend on them. The client waits for its answers, unless the last byte is a control
character: with EOT it closes its half of the connection, with CAN all of it.
"""

import gzip
import json
from collections import Counter
from collections.abc import Mapping
from random import Random

import msgspec
from fuzzing.in_process.http1_messages import chunked, post, statuses
from fuzzing.in_process.pieces import pieces
from fuzzing.in_process.server import MAX_ROWS, Client, Server, first_plan
from fuzzing.mutations.text import TextMutations
from fuzzing.targets.binary_bodies import binary_request
from fuzzing.targets.json_bodies import HEAVY as JSON_HEAVY
from fuzzing.targets.json_bodies import LIGHT as JSON_LIGHT
from fuzzing.targets.json_bodies import infer_request
from fuzzing.targets.target import WireTarget

from proteus_cli.serving.rest.endpoints import ROUTES

TOKEN = "a-token-of-the-fuzzer"  # noqa: S105 - of a server that nobody can reach
_AUTHORIZATION = b"authorization: Bearer %b\r\n" % TOKEN.encode()
_HALF_CLOSED, _GONE = b"\x04", b"\x18"
_ONCE = (b"host", b"content-length", b"transfer-encoding", b"authorization")
_BLANKS = (b" ", b"\t")
_REFUSED = 400
_MAX_REPEATED = 300_000  # bytes: five reads, so that one can be full
_OTHER_END_FRAC = 0.05  # of mutations

LINES = (
    b"Content-Length: 0", b"Content-Length: 5", b"Content-Length: 18446744073709551616", b"Content-Length: -1",
    b"Content-Length: 99999999", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Host: localhost",
    b"Host: 127.0.0.1:8000", b"Host: elsewhere.example", b"Host:", b"Expect: 100-continue", b"Expect: x",
    b"Connection: close", b"Connection: keep-alive", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c",
    b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA", b"Content-Encoding: gzip", b"Content-Encoding: deflate",
    b"Accept-Encoding: gzip;q=0.5, *;q=0", b"If-None-Match: *", b"Inference-Header-Content-Length: 10",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"tracestate: a=b",
    b"Origin: http://elsewhere.example", b"Origin: null", b"Sec-Fetch-Site: cross-site", b"Content-Type: text/plain",
    b"Content-Type: application/json", b"Cookie: a=b", b" folded", b"\x00: x", b"X: \xff\x00", b": no name", b"",
    b"POST /v2/models/small/infer HTTP/1.1", b"GET / HTTP/1.0", b"GET /v2 HTTP/0.9", b"PRI * HTTP/2.0",
    b"OPTIONS * HTTP/1.1", b"CONNECT localhost:80 HTTP/1.1", b"GET http://localhost/v2 HTTP/1.1", b"HEAD / HTTP/1.1",
    b"GET /v2%2fproteus/status HTTP/1.1", b"GET /v2/../metrics?a=b&a HTTP/1.1", b"GET /v2/models/%ff/ready HTTP/1.1",
    b"0", b"1\r\nx", b"5;a=b", b"ffffffffffffffff", b"-1", b"0x5", b"\x16\x03\x01\x00",
)  # fmt: skip
HEAVY = (
    *(b"X: %b" % (b"y" * length) for length in (1_000, 30_000, 70_000)),
    *(b"\r\n".join([b"X: y"] * lines) for lines in (100, 1_000, 10_000)),
    b"\r\n" * 10_000, b"1\r\nx\r\n" * 10_000, b"GET /%b HTTP/1.1" % (b"%41" * 10_000), b"5;" + b"a" * 40_000,
    b"GET /?%b HTTP/1.1" % (b"a=b&" * 5_000), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500,
)  # fmt: skip


class Http1Connections(WireTarget):
    tokens = ((), (TOKEN,))

    def __init__(self) -> None:
        super().__init__()
        samples = [*self.seeds().values()]
        self._mutate_lines = TextMutations(
            LINES, HEAVY, samples, b"\r\n", token=rb"[^\r\n]*\r?\n|[^\r\n]+", max_bytes=_MAX_REPEATED
        )
        self._mutate_words = TextMutations(
            (*LINES, *JSON_LIGHT), (*HEAVY, *JSON_HEAVY), samples, b"", max_bytes=_MAX_REPEATED
        )

    async def converse(self, server: Server, content: bytes) -> None:
        client = Client(server, "http")
        for piece in pieces(content.rstrip(_HALF_CLOSED + _GONE)):
            await client.send(piece)
        if content.endswith(_HALF_CLOSED):
            client.end()
        elif not content.endswith(_GONE):
            await server.settle()
        client.close()
        await server.settle()
        answered = statuses(client.writes)
        if is_ambiguous(content):
            assert len(answered) <= 1, "answers after a request that may have another end"
            assert all(status >= _REFUSED for status in answered), "an ambiguous request is taken"

    def seeds(self) -> Mapping[str, bytes]:
        small = json.dumps(infer_request("small")).encode()
        length, _, binary = binary_request("small").partition(b"\n")
        large = json.dumps(infer_request("large", MAX_ROWS)).encode()
        requests = {
            "plan": _request("POST", "/v2/proteus/plan", msgspec.json.encode(first_plan())),
            "pipelined": post("small", small, _AUTHORIZATION) * 40,
            "gzip": post("small", gzip.compress(small, mtime=0), _AUTHORIZATION + b"content-encoding: gzip\r\n"),
            "binary": post("small", binary, _AUTHORIZATION + b"inference-header-content-length: %b\r\n" % length),
            "large": post("large", large, _AUTHORIZATION),
            "chunks": chunked("small", _AUTHORIZATION, small[:50], small[50:]),
            "small-chunks": chunked("small", _AUTHORIZATION, *(small[at : at + 1] for at in range(len(small)))),
            "expect": post("small", small, _AUTHORIZATION + b"expect: 100-continue\r\n"),
            "traced": post("small", small, _AUTHORIZATION + LINES[25] + b"\r\n"),
            **{
                f"{route.method}-{route.path.strip('/').replace('/', '-')}": _request(route.method, _filled(route.path))
                for route in ROUTES
            },
        }
        last = post("small", small, _AUTHORIZATION + b"connection: close\r\n")
        return {name: request + last for name, request in requests.items()}

    def mutate(self, content: bytes, rng: Random) -> bytes:
        if rng.random() < _OTHER_END_FRAC:
            return content + rng.choice((_HALF_CLOSED, _GONE))
        return rng.choice((self._mutate_lines, self._mutate_words))(content, rng)


def is_ambiguous(content: bytes) -> bool:
    """Whether two servers in a row could read the first request differently: its end, its host, or its sender."""
    head, end, _ = content.lstrip(b"\r\n").partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")[1:]
    names = Counter(line.partition(b":")[0].lower() for line in lines)
    is_repeated = any(names[name] > 1 for name in _ONCE)
    has_two_ends = b"content-length" in names and b"transfer-encoding" in names
    is_malformed = any(line[:1] in _BLANKS for line in lines) or any(name[-1:] in _BLANKS for name in names)
    return bool(end) and (is_repeated or has_two_ends or is_malformed or any(b"\n" in line for line in lines))


def _request(method: str, target: str, body: bytes = b"") -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".encode()
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (head, _AUTHORIZATION, len(body), body)


def _filled(path: str) -> str:
    return path.format(model="kinds", family="kinds", version="1", file="page.js") if "{" in path else path
