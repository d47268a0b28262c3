"""A server of one family with one variant, of which versions are rolled out, and a client of it."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from injecting import until_holds
from live_server import LiveServer
from msgspec.structs import replace
from onnx import helper
from tiny import (
    INPUTS,
    SHAPES,
    Tiny,
    TinyFamily,
    add_plan,
    add_profiles,
    make_workspace,
    passing_on,
    save_model,
    tensor,
)

from proteus_cli.domain.profile import Profile
from proteus_cli.store import model_digest, read_json, write_json

TOKEN = "f00d" * 8
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
ROLLOUTS = "/v2/proteus/rollouts"
FAMILY = TinyFamily("shapes", SHAPES.variants[:1], slo="10s", eval=SHAPES.eval)
OLD, NEW = "shapes-s", "shapes-s@2"
BY_HAND = {"canary": [0.5], "guard": [{"metric": "errors", "value": 0.5}]}


@dataclass
class Watched:
    """A server, and a client that asks it and tells labels for as long as the test runs."""

    live: LiveServer
    made: Tiny
    answers: list[tuple[int, str, bool]] = field(default_factory=list)
    """Status, variant, and whether the answer was right."""
    _numbers: Iterator[int] = field(default_factory=count)

    def version(self, number: int) -> Path:
        return self.made.model(OLD).parent / str(number) / self.made.model(OLD).name

    def post(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        reply = self.live.ask("POST", f"{ROLLOUTS}{path}", body or {}, AUTHORIZED)
        return reply.status, reply.document()

    def start(self, **asked: Any) -> Any:
        status, document = self.post("", {"family": "shapes", "variant": NEW} | asked)
        assert status == 200, document
        return document

    def status(self) -> Any:
        return self.live.ask("GET", ROLLOUTS, headers=AUTHORIZED).document()["rollouts"][-1]

    def until(self, holds: Callable[[Any], bool]) -> Any:
        return until_holds(self.status, holds, self.live.log.read_text)

    def until_stage(self, stage: str, step: int = 0) -> Any:
        return self.until(lambda found: found["stage"] == stage and found["step"] == step)

    def until_ended(self, ending: str) -> Any:
        found = self.until(lambda found: found["ending"] is not None)
        assert found["ending"] == ending, (found, self.live.log.read_text())
        return found

    def ask(self, client: str | None = None) -> str:
        """Ask about a row whose highest input is its class, and tell that; returns the variant."""
        name = f"r{next(self._numbers)}"
        x = np.random.default_rng(len(self.answers)).random(4).astype(np.float32)
        parameters = {} if client is None else {"client_key": client}
        body = {
            "id": name,
            "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": x.tolist()}],
            "parameters": parameters,
        }
        reply = self.live.infer("shapes", body, AUTHORIZED)
        document = reply.document()
        variant = document.get("parameters", {}).get("variant", "")
        scores = document["outputs"][0]["data"] if reply.status == 200 else [0.0]
        self.answers.append((reply.status, variant, int(np.argmax(scores)) == int(x.argmax())))
        item = {"model": "shapes", "id": name, "label": int(x.argmax())}
        self.live.ask("POST", "/v2/proteus/feedback", {"feedback": [item]}, AUTHORIZED)
        return str(variant)

    def ask_until(self, is_over: threading.Event) -> None:
        while not is_over.wait(0.001):
            self.ask()

    def hosted(self) -> set[str]:
        plan = self.live.ask("GET", "/v2/proteus/plan", headers=AUTHORIZED).document()
        return {placement["variant"] for placement in plan["placements"]}

    def catalog(self) -> str:
        return (self.made.root / "engines" / "catalog.toml").read_text()


def make_versioned(root: Path) -> tuple[Tiny, Path, tuple[str, ...]]:
    """A workspace whose model is always right, its plan, and the options that a server of versions needs."""
    made = make_workspace(root, (FAMILY,))
    passing_on(made.model(OLD))
    catalog = root / "engines" / "catalog.toml"
    catalog.write_text("# what we serve\n" + catalog.read_text())
    add_profiles(made, ("cpu0",))
    plan = add_plan(made, {"cpu0": OLD}, demand_qps=1.0)
    tokens = root / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    return made, plan, ("--auth-tokens", str(tokens), "--feedback=10min", "--set=catalog-budget=2s")


def measure(made: Tiny, model: Path) -> None:
    """Know a version's times, as if it had been rolled out before: beside other tests, it would wait for a core."""
    known = read_json(made.place.profile_path("cpu0"), Profile, hint="")
    (of_old,) = known.variants
    variants = (replace(of_old, model_digest=model_digest(model)),)
    write_json(made.place.version_profile_path("cpu0"), replace(known, variants=variants))


def opposing(path: Path) -> Path:
    """A model that answers with the place of the lowest input: it is always wrong."""
    ends = [tensor(name, ["n", INPUTS]) for name in ("x", "scores")]
    return save_model(path, [helper.make_node("Neg", ["x"], ["scores"])], inputs=ends[:1], outputs=ends[1:])


def renamed(path: Path) -> bytes:
    """The same model by other bytes, so that it is another version."""
    model: Any = onnx.load(path)
    model.doc_string = "trained anew"
    content: bytes = model.SerializeToString()
    return content
