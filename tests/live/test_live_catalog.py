"""The catalog of a running server is read anew: variants come, change and go, and no request is lost meanwhile."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from command_line import proteus
from injecting import until, until_holds
from live_server import LiveServer, serving
from tiny import SHAPES, Tiny, TinyFamily, TinyVariant, add_plan, add_profiles, catalog_toml, make_workspace, mlp

from proteus_cli.serving.adaptation.plan_journal import records

pytestmark = pytest.mark.live

TOKEN = "f00d" * 8
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
ROW = np.random.default_rng(5).normal(size=4).astype(np.float32)
CATALOG = "/v2/proteus/catalog"
FAMILY = TinyFamily("shapes", SHAPES.variants[:2], slo="10s", eval=SHAPES.eval)


@dataclass
class Watched:
    """A server that re-plans, and a client that asks it for as long as the test runs."""

    live: LiveServer
    made: Tiny
    statuses: list[int] = field(default_factory=list)

    def catalog(self) -> Any:
        return self.live.ask("GET", CATALOG, headers=AUTHORIZED).document()

    def read(self) -> tuple[int, Any]:
        reply = self.live.ask("POST", CATALOG, b"", AUTHORIZED)
        return reply.status, reply.document()

    def until(self, holds: Callable[[Any], bool]) -> Any:
        """The first state of the catalog for which that holds."""
        return until_holds(self.catalog, holds, self.live.log.read_text)

    def hosted(self) -> set[str]:
        plan = self.live.ask("GET", "/v2/proteus/plan", headers=AUTHORIZED).document()
        return {placement["variant"] for placement in plan["placements"]}

    def until_hosted(self, holds: Callable[[set[str]], bool]) -> set[str]:
        found: set[str] = until_holds(self.hosted, holds, self.live.log.read_text)
        return found

    def answer(self) -> list[float]:
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROW.tolist()}
        reply = self.live.infer("shapes", {"inputs": [tensor]}, AUTHORIZED)
        self.statuses.append(reply.status)
        return list(reply.document()["outputs"][0]["data"]) if reply.status == 200 else []

    def ask_until(self, is_over: threading.Event) -> None:
        """A few tens of requests a second, so that the most accurate variant can answer all."""
        while not is_over.wait(0.02):
            self.answer()

    def write_catalog(self, *variants: TinyVariant, **family: Any) -> None:
        changed = TinyFamily("shapes", variants, slo="10s", eval=SHAPES.eval, **family)
        (self.made.root / "engines" / "catalog.toml").write_text(catalog_toml([changed]))


@contextmanager
def serving_in(root: Path, *options: str) -> Iterator[Watched]:
    """A server of `FAMILY` on one device, which hosts the second variant."""
    made = make_workspace(root, (FAMILY,))
    add_profiles(made, ("cpu0",))
    plan = add_plan(made, {"cpu0": "shapes-m"}, demand_qps=1.0)
    tokens = root / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    with serving(root, plan, "--replan=period=1s", "--auth-tokens", str(tokens), *options) as live:
        yield Watched(live, made)


def _serving(root: Path, *options: str) -> Iterator[Watched]:
    """As `serving_in`, with a client that loses no request."""
    with serving_in(root, *options) as watched:
        is_over, live = threading.Event(), watched.live
        client = threading.Thread(target=watched.ask_until, args=(is_over,))
        client.start()
        try:
            yield watched
        finally:
            is_over.set()
            client.join()
        watched.answer()
        assert set(watched.statuses) == {200}, live.log.read_text()
        assert live.stop() == 0, live.log.read_text()
        assert "Traceback" not in live.log.read_text(), live.log.read_text()


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    yield from _serving(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One for all catalogs that it does not follow."""
    yield from _serving(tmp_path_factory.mktemp("unchanged"), "--emulate")


def scores(made: Tiny, variant: str) -> list[float]:
    """What a model says, computed here."""
    import onnx  # noqa: PLC0415
    from onnx import numpy_helper  # noqa: PLC0415

    weights = {each.name: numpy_helper.to_array(each) for each in onnx.load(made.model(variant)).graph.initializer}
    found: list[float] = (np.maximum(ROW @ weights["w1"], 0) @ weights["w2"]).tolist()
    return found


def test_a_model_that_was_trained_anew_takes_over_without_a_lost_request(server: Watched) -> None:
    before = scores(server.made, "shapes-m")
    np.testing.assert_allclose(server.answer(), before, rtol=1e-4)
    retrain(server.made, "shapes-m")
    after = scores(server.made, "shapes-m")
    status, document = server.read()
    assert status == 200
    assert document["changes"] == [{"family": "shapes", "variant": "shapes-m", "kind": "changed", "what": "its model"}]
    served = server.until(lambda each: each["state"] == "served")["catalog"]["family"][0]["variant"]
    name = served[1]["name"]
    assert name.startswith("shapes-m@")
    server.until_hosted(lambda hosted: hosted == {name})
    server.until(lambda each: not each["retiring"])
    np.testing.assert_allclose(server.answer(), after, rtol=1e-4)
    reasons = [record.reason for record in records(server.made.root / "plans" / "history")]
    assert any(reason.startswith("the catalog has changed: shapes/shapes-m is changed") for reason in reasons), reasons


def test_a_model_that_is_missing_or_does_not_fit_changes_nothing(server: Watched) -> None:
    before = server.catalog()
    server.write_catalog(*SHAPES.variants)
    status, document = server.read()
    assert (status, "No model" in document["error"]) == (422, True), document
    mlp(server.made.model("shapes-m").with_name("shapes-l.onnx"), inputs=5)
    status, document = server.read()
    assert (status, "takes or gives other tensors" in document["error"]) == (422, True), document
    after = server.catalog()
    assert (after["catalog"], after["state"]) == (before["catalog"], "served")


# --- emulated devices: what is new has a profile, which is made up


@pytest.fixture
def emulated(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Watched]:
    yield from _serving(tmp_path_factory.mktemp("emulated"), "--emulate", *getattr(request, "param", ()))


def retrain(made: Tiny, variant: str, *, seed: int = 17) -> None:
    """Another model in the file of a variant, with a profile as before."""
    mlp(made.model(variant), hidden=8, seed=seed)
    add_profiles(made, ("cpu0",))


def test_what_is_read_again_changes_nothing(emulated: Watched) -> None:
    before = emulated.catalog()
    assert (before["state"], before["read_unix_s"], before["retiring"]) == ("served", None, {})
    path = emulated.made.root / "engines" / "catalog.toml"
    path.write_text("# a comment\n" + path.read_text())
    status, after = emulated.read()
    assert (status, after["changes"], after["catalog"]) == (200, [], before["catalog"])
    assert emulated.hosted() == {"shapes-m"}


def test_variants_come_and_go(emulated: Watched) -> None:
    small, middle, large = SHAPES.variants
    emulated.made = make_workspace(emulated.made.root, (replace(FAMILY, variants=(small, middle, large)),))
    add_profiles(emulated.made, ("cpu0",))
    status, document = emulated.read()
    assert (status, [each["kind"] for each in document["changes"]]) == (200, ["new"])
    emulated.until_hosted(lambda hosted: hosted == {"shapes-l"})
    emulated.write_catalog(small)
    status, document = emulated.read()
    assert [(each["variant"], each["kind"]) for each in document["changes"]] == [
        ("shapes-m", "removed"), ("shapes-l", "removed")
    ]  # fmt: skip
    emulated.until_hosted(lambda hosted: hosted == {"shapes-s"})
    emulated.until(lambda each: not each["retiring"])
    assert "shapes-l, shapes-m served for the last: forgotten" in emulated.live.log.read_text()


def test_a_model_that_comes_back_is_served_again_by_its_name(emulated: Watched) -> None:
    model = emulated.made.model("shapes-m")
    first = model.read_bytes()
    retrain(emulated.made, "shapes-m")
    emulated.read()
    (version,) = emulated.until_hosted(lambda hosted: hosted != {"shapes-m"})
    assert version.startswith("shapes-m@")
    model.write_bytes(first)
    add_profiles(emulated.made, ("cpu0",))
    emulated.read()
    emulated.until_hosted(lambda hosted: hosted == {"shapes-m"})


def test_a_plan_by_hand_means_the_variants_of_the_catalog_file(emulated: Watched) -> None:
    retrain(emulated.made, "shapes-m")
    emulated.read()
    emulated.until_hosted(lambda hosted: hosted != {"shapes-m"})
    plan = msgspec.json.decode(add_plan(emulated.made, {"cpu0": "shapes-m"}, demand_qps=1.0).read_bytes())
    reply = emulated.live.ask("POST", "/v2/proteus/plan", plan, AUTHORIZED)
    assert reply.status == 200, reply.body
    (version,) = emulated.hosted()
    assert version.startswith("shapes-m@")


def test_the_last_plan_is_resumed_by_the_names_of_the_catalog_file(tmp_path: Path) -> None:
    with serving_in(tmp_path, "--emulate") as server:
        retrain(server.made, "shapes-m")
        server.read()
        server.until_hosted(lambda hosted: hosted != {"shapes-m"})
        history = tmp_path / "plans" / "history"
        until(lambda: any("the catalog has changed" in each.reason for each in records(history)))
        server.live.process.kill()
        server.live.process.wait()
    with serving(tmp_path, tmp_path / "plans" / "plan.json", "--emulate", "--replan=off") as live:
        plan = live.get("/v2/proteus/plan").document()
        assert [each["variant"] for each in plan["placements"]] == ["shapes-m"]
        assert "resuming the plan" in live.log.read_text()
        assert live.stop() == 0


@pytest.mark.parametrize("emulated", [("--set=watch=true",)], indirect=True)
def test_a_catalog_that_is_watched_is_read_where_it_changes(emulated: Watched) -> None:
    emulated.write_catalog(FAMILY.variants[0])
    emulated.until_hosted(lambda hosted: hosted == {"shapes-s"})
    emulated.write_catalog()
    emulated.until(lambda each: each["problem"] is not None)
    assert emulated.hosted() == {"shapes-s"}


def test_what_differs_is_shown_before_it_is_read(emulated: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTEUS_TOKEN", TOKEN)
    monkeypatch.setenv("COLUMNS", "100")
    retrain(emulated.made, "shapes-m")
    asking = ("catalog", "diff", "--url", f"http://127.0.0.1:{emulated.live.port}", "-w", emulated.made.root)
    shown = proteus(*asking)
    assert shown.stdout.splitlines()[-1].split() == ["shapes", "shapes-m", "changed", "its", "model"]
    assert shown.stderr == f"1 difference between the catalog and what {asking[3]} serves\n"
    emulated.read()
    emulated.until(lambda each: each["state"] == "served")
    assert json.loads(proteus(*asking, "--json").stdout) == []


def test_sighup_puts_a_plan_in_force_that_was_made_of_the_new_catalog(emulated: Watched) -> None:
    retrain(emulated.made, "shapes-s")
    add_plan(emulated.made, {"cpu0": "shapes-s"}, demand_qps=1.0)
    emulated.live.process.send_signal(signal.SIGHUP)
    (version,) = emulated.until_hosted(lambda hosted: hosted != {"shapes-m"})
    assert version.startswith("shapes-s@")
    status = emulated.live.ask("GET", "/v2/proteus/status", headers=AUTHORIZED).document()
    assert any(change["reason"] == "applied by SIGHUP" for change in status["changes"])


def test_sighup_reads_the_catalog(emulated: Watched) -> None:
    emulated.write_catalog(FAMILY.variants[0])
    emulated.live.process.send_signal(signal.SIGHUP)
    emulated.until_hosted(lambda hosted: hosted == {"shapes-s"})
    followed = emulated.until(lambda each: len(each["catalog"]["family"][0]["variant"]) == 1)
    assert followed["catalog"]["family"][0]["variant"][0]["name"] == "shapes-s"


@pytest.mark.parametrize(
    ("change", "status", "problem"),
    [
        (lambda text: text.replace("weight", 'confidence = "output:y"\nweight'), 409, "shapes is changed (confidence)"),
        (lambda text: text.replace("accuracy = 0.8", "accuracy = 80"), 422, "is not a valid catalog"),
        (lambda text: text.replace('"shapes-m"', '"shapes-m@2"'), 422, "must be letters"),
    ],
    ids=["another confidence", "no accuracy", "a version"],
)
def test_a_catalog_that_cannot_be_followed_changes_nothing(
    unchanged: Watched, change: Callable[[str], str], status: int, problem: str
) -> None:
    before = unchanged.catalog()
    path = unchanged.made.root / "engines" / "catalog.toml"
    text = path.read_text()
    path.write_text(change(text))
    found, document = unchanged.read()
    path.write_text(text)
    assert (found, problem in document["error"]) == (status, True), document
    after = unchanged.catalog()
    assert (after["catalog"], after["state"], problem in after["problem"]) == (before["catalog"], "served", True)


def test_without_a_token_nobody_has_the_catalog_read(tmp_path: Path) -> None:
    made = make_workspace(tmp_path, (FAMILY,))
    add_profiles(made, ("cpu0",))
    with serving(tmp_path, add_plan(made, {"cpu0": "shapes-m"}), "--emulate") as live:
        assert live.get(CATALOG).status == 200
        assert live.ask("POST", CATALOG, b"").status == 403
        assert live.stop() == 0
