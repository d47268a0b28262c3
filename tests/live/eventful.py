"""A server to which everything happens that it counts and logs: answers, refusals, failures, clients that go away."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from live_server import ANSWER_WITHIN_S, LiveServer, serving
from onnx import TensorProto, helper
from tiny import SHAPES, TONES, TinyFamily, TinyVariant, add_plan, add_profiles, make_workspace, save_model, tensor

PICKY = TinyFamily("picky", (TinyVariant("picky-s", 0.8, hidden=4),))
REFUSED, FAILED = 60, 20


def choosing(path: Path) -> Path:
    """A model that takes entries of a table by number, and fails where there is no such entry."""
    nodes = [
        helper.make_node("Cast", ["x"], ["numbers"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "numbers"], ["rows"], axis=0),
        helper.make_node("Slice", ["rows", "first", "last", "axis"], ["scores"]),
    ]
    weights: dict[str, Any] = {
        "table": np.arange(9, dtype=np.float32), "first": np.array([0]), "last": np.array([3]), "axis": np.array([1])
    }  # fmt: skip
    inputs, outputs = [tensor("x", ["n", 4])], [tensor("scores", ["n", 3])]
    return save_model(path, nodes, inputs=inputs, outputs=outputs, weights=weights)


def row(*values: float) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": list(values)}]}


@contextmanager
def eventful(root: Path, *options: str) -> Iterator[LiveServer]:
    """`shapes` and `picky` are hosted, `tones` is not."""
    made = make_workspace(root, (SHAPES, TONES, PICKY))
    choosing(made.model("picky-s"))
    add_profiles(made)
    plan = add_plan(made, {"cpu0": "shapes-s", "cpu1": "picky-s"})
    with serving(made.root, plan, "--replan=off", "--set=batching=proactive", *options) as live:
        with ThreadPoolExecutor(8) as pool:
            good = list(pool.map(lambda _: live.infer("shapes", row(1, 2, 3, 4)).status, range(40)))
            refused = list(pool.map(lambda _: live.infer("tones", row(1, 2, 3, 4)).status, range(REFUSED)))
            failed = list(pool.map(lambda _: live.infer("picky", row(0, 1, 2, 77)).status, range(FAILED)))
        assert set(good) == {200}
        assert set(refused) == {429}
        assert set(failed) == {500}
        assert live.infer("picky", row(0, 1, 2, 3)).status == 200
        assert live.infer("shapes", {**row(1, 2, 3, 4), "parameters": {"timeout": 4082}}).status == 504
        assert live.infer("shapes", {"inputs": []}).status == 400
        leave(live)
        yield live


def leave(live: LiveServer) -> None:
    """Ask, and go away."""
    body = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'
    head = b"POST /v2/models/shapes/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", live.port), ANSWER_WITHIN_S) as client:
        client.sendall(head + body)
        live.until(lambda status: status["inside"] == 1)
    live.until(lambda status: status["inside"] == 0)
