"""The server does what its OpenAPI document says, to good requests and to bad ones."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_server import LiveServer, serving
from tiny import TinyFamily, TinyVariant, add_plan, add_profiles, make_workspace

pytestmark = pytest.mark.live

# A deadline is far away on any machine.
ROOMY = TinyFamily(
    "shapes", (TinyVariant("shapes-s", 0.7, hidden=4), TinyVariant("shapes-l", 0.9, hidden=16)), slo="60s"
)
WITHIN_S = 90
# That the values of a tensor are as many as its shape says, no schema can say: such requests are right, and refused.
SETTINGS = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", 400, 504]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    tiny = make_workspace(tmp_path_factory.mktemp("live"), (ROOMY,))
    add_profiles(tiny)
    plan = add_plan(tiny, {"cpu0": "shapes-s", "cpu1": "shapes-l"})
    with serving(tiny.root, plan, "--no-replan") as live:
        yield live
        assert live.stop() == 0, live.log.read_text()
        assert "Traceback" not in live.log.read_text()


@pytest.mark.timeout(WITHIN_S + 30)
def test_schemathesis_finds_no_difference_between_document_and_server(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    command = [
        "run", f"http://127.0.0.1:{server.port}/openapi.json", "--checks", "all", "--mode", "all",
        "--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--seed", "1", "--generation-deterministic",
        "--generation-database", "none", "--continue-on-failure", "--no-color",
    ]  # fmt: skip
    here = str(Path(sys.executable).parent / "schemathesis")
    done = subprocess.run(
        [here, *command], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=WITHIN_S
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_documents_examples_are_answered(server: LiveServer) -> None:
    document = server.get("/openapi.json").document()
    body = document["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]
    (example,) = body["content"]["application/json"]["examples"].values()
    reply = server.infer("shapes", example["value"])
    assert reply.status == 200
    assert set(reply.document()["parameters"]) == set(
        document["components"]["schemas"]["AnswerParameters"]["properties"]
    )
    assert json.loads(server.get("/openapi.json").body) == document
