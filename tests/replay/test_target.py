"""What is sent to a server, and how its answers are read: real sockets, and a server that answers as it is told."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import pytest

from proteus_cli.domain.request import Bounds, Outcome
from proteus_cli.errors import ServerError, UsageError
from proteus_cli.replay import http_client
from proteus_cli.replay import target as target_module
from proteus_cli.replay.http_client import HttpReply, why_unreachable
from proteus_cli.replay.target import HttpTarget, Reply, StatusReply, http_target

METADATA = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}
STATUS = {
    "policy": "proteus", "slo_s": {"a": 0.1}, "best_accuracy": {"a": 0.9}, "pace": {}, "changes": [], "emulated": False,
    "attainment_target": {}, "estimated": [], "families": {},
}  # fmt: skip
PAGES = {"/v2/models/a": METADATA, "/v2/proteus/status": STATUS}


class Server:
    """Keeps the JSON of each inference request, and answers it with ``answer``."""

    def __init__(self, answer: bytes, pages: Mapping[str, Any] = PAGES) -> None:
        self.answer, self._pages = answer, pages
        self.asked: list[dict[str, Any]] = []
        self.connections: list[asyncio.Task[Any] | None] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(asyncio.current_task())
        while head := await _line(reader):
            headers = {}
            while (line := await reader.readline()).strip():
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            page = self._pages.get(head.decode().split()[1])
            if page is None:
                self.asked.append(
                    msgspec.json.decode(body[: int(headers.get("inference-header-content-length", len(body)))])
                )
                writer.write(self.answer)
            else:
                json = page if isinstance(page, bytes) else msgspec.json.encode(page)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(json), json))
        writer.close()
        with contextlib.suppress(ConnectionError):  # the client gave the answer up
            await writer.wait_closed()


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ConnectionError:  # the client gave the answer up
        return b""


def played(
    server: Server,
    use: Callable[[HttpTarget], Awaitable[Reply]],
    splits: Mapping[str, Path] = MappingProxyType({}),
    *,
    is_plain: bool = False,
) -> Reply:
    async def play() -> Reply:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        async with listening:
            async with http_target(f"http://127.0.0.1:{port}") as target:
                await (target.prepare_plain("a") if is_plain else target.prepare(("a",), splits))
                reply = await use(target)
            await asyncio.gather(*filter(None, server.connections))
            return reply

    return asyncio.run(play())


def refusing(status: int, header: str = "") -> bytes:
    return f"HTTP/1.1 {status} No\r\n{header}Content-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("minimum", "sent"), [(0.0, {}), (0.875, {"min_accuracy": 0.875}), (1e-9, {"min_accuracy": 1e-9})]
)
def test_time_left_and_minimum_are_sent_as_parameters(minimum: float, sent: dict[str, float]) -> None:
    server = Server(refusing(429))
    played(server, lambda target: target.send("a", 0, 0.05, minimum))
    assert server.asked[0]["parameters"] == {"binary_data_output": True, "timeout": 50_000, **sent}


def test_other_bounds_are_sent_as_parameters() -> None:
    server = Server(refusing(429))
    bounds = Bounds(min_confidence=-0.5, min_expected_accuracy=0.9, max_energy_j=0.25)
    played(server, lambda target: target.send("a", 0, 0.05, 0.0, bounds))
    sent = {"min_confidence": -0.5, "min_expected_accuracy": 0.9, "max_energy_j": 0.25}
    assert server.asked[0]["parameters"] == {"binary_data_output": True, "timeout": 50_000, **sent}


@pytest.mark.parametrize(("extensions", "is_binary"), [(["binary_tensor_data"], True), ([], False)])
def test_a_server_of_another_make_is_told_no_deadline_and_its_answer_is_not_read(
    extensions: list[str], *, is_binary: bool
) -> None:
    server = Server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", {**PAGES, "/v2": {"extensions": extensions}})
    assert played(server, lambda target: target.send("a", 0, 0.05, 0.9), is_plain=True) == Reply(Outcome.SERVED)
    assert [asked.get("parameters") for asked in server.asked] == [
        {"binary_data_output": True} if is_binary else None
    ] * 2
    assert [len(asked["inputs"][0].get("data", ())) for asked in server.asked] == [0 if is_binary else 4] * 2


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (refusing(429), Outcome.REJECTED),
        (refusing(503), Outcome.REJECTED),
        (refusing(504), Outcome.DROPPED),
        (refusing(504, "proteus-outcome: late\r\n"), Outcome.LATE),
        (refusing(400, "proteus-outcome: rejected\r\n"), Outcome.REJECTED),
        (refusing(400), Outcome.FAILED),
        (refusing(400, "proteus-outcome: served\r\n"), Outcome.FAILED),
        (refusing(500), Outcome.FAILED),
    ],
)
def test_the_outcome_is_that_of_the_header_or_else_of_the_status(answer: bytes, outcome: Outcome) -> None:
    assert played(Server(answer), lambda target: target.send("a", 0, 0.05, 0.9)) == Reply(outcome)


@pytest.mark.parametrize(("timeout_s", "outcome"), [(60.0, Outcome.REJECTED), (0.0, Outcome.FAILED)])
def test_an_answer_is_awaited_until_its_deadline_and_for_some_time_after_that(
    timeout_s: float, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_module, "REPLY_TIMEOUT_S", 0.05)

    async def asked(target: HttpTarget) -> Reply:
        post = target._client.post

        async def slow(*given: bytes) -> HttpReply:
            await asyncio.sleep(0.3)
            return await post(*given)

        monkeypatch.setattr(target._client, "post", slow)
        return await target.send("a", 0, timeout_s, 0.0)

    assert played(Server(refusing(429)), asked) == Reply(outcome)


def _model(**changed: Any) -> dict[str, Any]:
    return {"inputs": [METADATA["inputs"][0] | changed]}


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("/v2/models/a", b"["),
        ("/v2/models/a", b"[" * 200_000),
        ("/v2/models/a", b"\xff"),
        ("/v2/models/a", {}),
        ("/v2/models/a", {"inputs": []}),
        ("/v2/models/a", {"inputs": [METADATA["inputs"][0], METADATA["inputs"][0] | {"datatype": "BYTES"}]}),
        ("/v2/models/a", _model(datatype="STRING")),
        ("/v2/models/a", _model(shape=[-1, 10**12])),
        ("/v2/models/a", _model(shape=[-1, 2**62, 2**62])),
        ("/v2/models/a", _model(shape=[-1, 0])),
        ("/v2/models/a", _model(shape="x")),
        ("/v2/proteus/status", STATUS | {"slo_s": {}}),
        ("/v2/proteus/status", STATUS | {"slo_s": {"a": -1}}),
        ("/v2/proteus/status", STATUS | {"slo_s": {"a": None}}),
        ("/v2/proteus/status", STATUS | {"changes": [{"unix_s": 1.0}]}),
    ],
)
def test_a_server_that_says_nonsense_of_itself_is_refused(path: str, page: Any) -> None:
    with pytest.raises(ServerError, match="`http://"):
        played(Server(b"", {**PAGES, path: page}), lambda target: target.send("a", 0, 0.05, 0.9))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nInference-Header-Content-Length: x\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"[" * 100_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 34\r\n\r\n" + b'{"parameters":{"accuracy":1e9999}}',
    ],
)
def test_an_answer_that_is_no_inference_ends_the_replay_with_an_error(answer: bytes) -> None:
    with pytest.raises(ServerError, match="something other than an inference"):
        played(Server(answer), lambda target: target.send("a", 0, 0.05, 0.9))


# --- answers that labels judge


def answering(scores: Sequence[float], **changed: Any) -> bytes:
    """An inference with one row of scores."""
    binary = np.array(scores, "<f4").tobytes()
    size = {"binary_data_size": len(binary)}
    output = {"name": "scores", "datatype": "FP32", "shape": [1, len(scores)], "parameters": size, **changed}
    json = msgspec.json.encode({"model_name": "a", "outputs": [output], "parameters": {"accuracy": 0.75}})
    heads = f"Content-Length: {len(json) + len(binary)}\r\nInference-Header-Content-Length: {len(json)}\r\n\r\n"
    return b"HTTP/1.1 200 OK\r\n" + heads.encode() + json + binary


@pytest.fixture
def of_class_2(tmp_path: Path) -> dict[str, Path]:
    """An eval split of which each row is of class 2."""
    path = tmp_path / "eval.npz"
    np.savez(path, x=np.zeros((3, 4), np.float32), y=np.full(3, 2))
    return {"a": path}


@pytest.mark.parametrize(
    ("answer", "is_correct"),
    [
        (answering([0.1, 0.2, 0.7]), True),
        (answering([0.7, 0.2, 0.1]), False),
        (answering([0.1, 0.2, 0.7], datatype="BYTES"), None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", None),
    ],
)
def test_an_answer_is_right_where_its_highest_score_is_that_of_the_label(
    of_class_2: dict[str, Path], answer: bytes, *, is_correct: bool | None
) -> None:
    def ask(target: HttpTarget) -> Awaitable[Reply]:
        assert target.judged == {"a"}
        return target.send("a", 0, 0.05, 0.0)

    reply = played(Server(answer), ask, of_class_2)
    assert (reply.outcome, reply.is_correct) == (Outcome.SERVED, is_correct)
    assert played(Server(answer), lambda target: target.send("a", 0, 0.05, 0.0)).is_correct is None


@pytest.mark.parametrize("changed", [{"parameters": {"binary_data_size": 7}}, {"parameters": {}}, {"datatype": 1}])
def test_an_answer_whose_scores_are_not_what_it_says_ends_the_replay_with_an_error(
    of_class_2: dict[str, Path], changed: dict[str, Any]
) -> None:
    with pytest.raises(ServerError, match="something other than an inference"):
        played(Server(answering([0.1, 0.2, 0.7], **changed)), lambda target: target.send("a", 0, 0.05, 0.0), of_class_2)


def test_a_split_that_does_not_fit_the_model_of_the_server_is_told_and_random_rows_are_sent(
    of_class_2: dict[str, Path],
) -> None:
    server = Server(answering([0.1, 0.2, 0.7]), {**PAGES, "/v2/models/a": _model(shape=[-1, 5])})

    def ask(target: HttpTarget) -> Awaitable[Reply]:
        assert "shape (3, 4) for `x`" in target.unfit["a"].message
        assert not target.judged
        return target.send("a", 0, 0.05, 0.0)

    assert played(server, ask, of_class_2).is_correct is None


def test_what_emulated_devices_answer_is_not_judged(of_class_2: dict[str, Path]) -> None:
    server = Server(answering([0.1, 0.2, 0.7]), {**PAGES, "/v2/proteus/status": STATUS | {"emulated": True}})
    assert played(server, lambda target: target.send("a", 0, 0.05, 0.0), of_class_2).is_correct is None


def test_replies_that_come_in_take_so_much_memory_together_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is complete takes none. Beyond that a reply is given up; else it would be read, and be no inference."""
    monkeypatch.setattr(http_client, "MAX_REPLIES_BYTES", 2**20)
    start, piece = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + bytes(2**16) + b"\r\n"
    server = Server(refusing(429, f"x: {'x' * 1000}\r\n"))

    async def many_then_one(target: HttpTarget) -> Reply:
        for number in range(1500):
            assert (await target.send("a", number, 0.05, 0.9)).outcome is Outcome.REJECTED
        server.answer = start + piece * 17 + b"0\r\n\r\n"
        return await target.send("a", 0, 0.05, 0.9)

    assert played(server, many_then_one) == Reply(Outcome.FAILED)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 8000)"), "Connection refused"),
        (
            OSError(
                "Multiple exceptions: [Errno 111] Connect call failed ('::1', 9, 0, 0), "
                "[Errno 111] Connect call failed ('127.0.0.1', 9)"
            ),
            "Connection refused",
        ),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (ConnectionResetError("the server closed the connection"), "the server closed the connection"),
    ],
)
def test_why_a_server_can_not_be_reached_is_told_in_words(error: OSError, said: str) -> None:
    assert why_unreachable(error) == said


@pytest.mark.parametrize(
    "url",
    [
        "", "127.0.0.1:8000", "ftp://h", "http://", "http://h:80000", "http://h:-1", "http://h:http", "http://[::1",
        "http://..", "http://a..b:80", f"http://{'x' * 300}",
    ],
)  # fmt: skip
def test_what_is_not_the_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not the URL of a server"):
        http_client.HttpClient(url)


def test_what_plans_expected_meanwhile_is_what_the_server_has_counted_since() -> None:
    """Of b no plan expected anything meanwhile; of c the server did not know before."""

    def said(**expected: tuple[float, float]) -> StatusReply:
        families = {
            name: {"expected": {"queries": queries, "in_time": in_time}}
            for name, (queries, in_time) in expected.items()
        }
        return msgspec.convert({**STATUS, "families": families}, StatusReply)

    before, after = said(a=(100.0, 50.0), b=(10.0, 9.0)), said(a=(300.0, 240.0), b=(10.0, 9.0), c=(10.0, 8.0))
    assert after.expected_attainment(before) == {"a": 0.95, "c": 0.8}
