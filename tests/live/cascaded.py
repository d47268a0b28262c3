"""A workspace whose plan has a cascade: `shapes-s` defers what has a margin below 0.5 to `shapes-l`."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from builders import make_cascade
from live_server import LiveServer
from tiny import SHAPES, Tiny, TinyFamily, add_plan, add_profiles, make_workspace

from proteus_cli.arrays import Singles
from proteus_cli.domain.plan import Plan
from proteus_cli.store import write_json


def shapes_workspace(root: Path) -> Tiny:
    """Profiled, and its SLO so long that nothing is late."""
    made = make_workspace(root, (TinyFamily("shapes", SHAPES.variants, slo="60s"),))
    add_profiles(made)
    return made


def add_cascaded_plan(made: Tiny, **point: object) -> Path:
    """A plan with a device for each stage; ``point``: fields of the cascade's point."""
    path = add_plan(made, {"cpu0": "shapes-s", "cpu1": "shapes-l"})
    plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    first, second = (
        msgspec.structs.replace(each, rate_qps=rate, deferred_qps=10.0 - rate)
        for each, rate in zip(plan.placements, (10.0, 0.0), strict=True)
    )
    cascade = make_cascade("shapes", "shapes-s", "shapes-l", rate_qps=10.0)
    cascade = msgspec.structs.replace(cascade, point=msgspec.structs.replace(cascade.point, **point))
    write_json(path, msgspec.structs.replace(plan, placements=(first, second), cascades=(cascade,)))
    return path


def answered(server: LiveServer, rows: Singles, **asked: float) -> tuple[dict[str, Any], Singles]:
    """The parameters and the scores of the answer to a request with these rows."""
    tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
    reply = server.infer("shapes", {"inputs": [tensor], "parameters": asked})
    assert reply.status == 200, reply.body
    document = reply.document()
    output = document["outputs"][0]
    return document["parameters"], np.array(output["data"], np.float32).reshape(output["shape"])
