"""The recipes of deploy/: each is read by the tool that it is for, or by one that knows its schema."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from installed import lacking
from typer.main import get_command

from proteus_cli.cli.main import app
from proteus_cli.domain.cluster import CONNECT_S
from proteus_cli.serving.rest.endpoints import ROUTES
from proteus_cli.settings import environment, fields_of

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "proteus.service"
AGENT_UNIT = DEPLOY / "systemd" / "proteus-agent.service"
UNITS = pytest.mark.parametrize("unit", [UNIT, AGENT_UNIT], ids=lambda unit: unit.stem)
CONTAINERFILE = DEPLOY / "container" / "Containerfile"
MANIFESTS = DEPLOY / "kubernetes" / "proteus.yaml"
CLUSTER = DEPLOY / "kubernetes" / "cluster.yaml"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
INSTALLED = Path(sys.executable).parent
DRAIN_S = 10


def ran(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def tool(name: str) -> str:
    """A program that is no Python package; the test is skipped where it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(lacking(name))
    return found


# --- systemd


def verified(unit: str, tmp_path: Path) -> str:
    """What `systemd-analyze verify` complains about in a unit whose program is ours."""
    path = tmp_path / "proteus.service"
    path.write_text(unit.replace("/opt/proteus/bin/proteus", str(INSTALLED / "proteus")))
    done = ran(tool("systemd-analyze"), "verify", "--man=no", path)
    return done.stdout + done.stderr


@UNITS
def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path, unit: Path) -> None:
    assert verified(unit.read_text(), tmp_path) == ""


@UNITS
def test_systemd_would_say_what_is_wrong(tmp_path: Path, unit: Path) -> None:
    assert "WatchdogSeconds" in verified(unit.read_text().replace("WatchdogSec", "WatchdogSeconds"), tmp_path)


@UNITS
def test_the_unit_may_do_little(unit: Path) -> None:
    """systemd's own measure, of 10; docs/deploy.md says which it is."""
    done = ran(tool("systemd-analyze"), "security", "--offline=yes", "--no-pager", "--threshold=15", unit)
    assert done.returncode == 0, done.stdout
    assert f"Overall exposure level for {unit.name}: 1.5 OK" in done.stdout


def test_the_unit_waits_until_the_server_is_ready_and_has_drained() -> None:
    settings = settings_of(UNIT)
    assert (settings["Type"], settings["KillMode"], settings["Restart"]) == ("notify", "mixed", "on-failure")
    assert int(settings["TimeoutStopSec"].removesuffix("s")) > DRAIN_S
    assert f"--set state=/var/lib/{settings['StateDirectory']}" in settings["ExecStart"]


def test_the_agent_is_always_started_again_and_its_options_are_known() -> None:
    settings = settings_of(AGENT_UNIT)
    assert (settings["Type"], settings["KillMode"], settings["Restart"]) == ("notify", "mixed", "always")
    assert f"--state /var/lib/{settings['StateDirectory']}" in settings["ExecStart"]
    commands: Any = get_command(app)
    known = {name for parameter in commands.commands["agent"].params for name in parameter.opts}
    given = re.findall(r" (--[\w-]+)", settings["ExecStart"])
    assert set(given) == {"--listen", "--key", "--state", "--workspace"} <= known
    page = (ROOT / "docs" / "deploy.md").read_text()
    assert f"useradd --system --no-create-home {settings['User']}" in page
    assert f"install -o {settings['User']} -m 600" in page


def settings_of(unit: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in unit.read_text().splitlines() if re.match(r"[A-Z]\w+=", line))


# --- containers


def instructions() -> list[tuple[str, str]]:
    """Those of the Containerfile, each a name and the rest, with lines that go on joined."""
    text = re.sub(r"\\\n", " ", CONTAINERFILE.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], " ".join(line.partition(" ")[2].split())) for line in lines]


def test_hadolint_has_nothing_to_say() -> None:
    done = ran(INSTALLED / "hadolint", CONTAINERFILE)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_say_what_is_wrong(tmp_path: Path) -> None:
    worse = tmp_path / "Containerfile"
    worse.write_text(CONTAINERFILE.read_text().replace("USER 10001:10001", "USER root"))
    assert "DL3002" in ran(INSTALLED / "hadolint", worse).stdout


def test_the_image_has_two_stages_and_no_rights() -> None:
    found = instructions()
    stages = [place for place, (name, _) in enumerate(found) if name == "FROM"]
    assert len(stages) == 2
    last = dict(found[stages[1] :])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"])
    assert (last["ENTRYPOINT"], last["STOPSIGNAL"]) == ('["proteus"]', "SIGTERM")
    assert "RUN" not in last


def test_the_image_has_what_serving_may_need() -> None:
    """Traces, and what prepares models for `[family.input]`."""
    (made,) = [rest for name, rest in instructions() if name == "RUN"]
    assert '".[otlp,images]"' in made


def test_what_the_image_copies_is_there_and_its_variables_are_known() -> None:
    copied = [rest.split()[:-1] for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    assert [path for paths in copied for path in paths if not (ROOT / path).exists()] == []
    set_here = re.findall(r"PROTEUS_\w+", " ".join(rest for name, rest in instructions() if name == "ENV"))
    assert set_here
    assert set(set_here) <= variables()


def variables(command: str = "serve") -> set[str]:
    """The environment variables of a command of `proteus`."""
    group: Any = get_command(app)
    made = group.commands[command]
    kind = getattr(made.callback, "settings", None)
    in_struct = {environment(name) for name in fields_of(kind)} if kind is not None else set()
    return in_struct | {parameter.envvar for parameter in made.params if parameter.envvar}


# --- Kubernetes


def manifests() -> dict[str, Any]:
    """By kind."""
    return {each["kind"]: each for each in yaml.safe_load_all(MANIFESTS.read_text())}


@pytest.mark.parametrize("path", [MANIFESTS, CLUSTER], ids=lambda path: path.name)
def test_manifests_are_what_the_published_schemas_say(path: Path) -> None:
    done = ran(sys.executable, "-m", "kubernetes_validate", "--strict", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schemas_would_refuse_what_they_do_not_know(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(MANIFESTS.read_text().replace("readOnlyRootFilesystem", "readonlyRootFilesystem"))
    assert ran(sys.executable, "-m", "kubernetes_validate", "--strict", wrong).returncode != 0


def pod() -> Any:
    return manifests()["StatefulSet"]["spec"]["template"]["spec"]


def test_all_manifests_are_about_the_same_pods() -> None:
    found, labels = manifests(), {"app.kubernetes.io/name": "proteus"}
    assert found["StatefulSet"]["spec"]["template"]["metadata"]["labels"] == labels
    assert found["StatefulSet"]["spec"]["selector"]["matchLabels"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["minAvailable"] < found["StatefulSet"]["spec"]["replicas"]


def test_a_pod_has_probes_that_the_server_answers_and_time_to_drain() -> None:
    (container,) = pod()["containers"]
    known = {route.path for route in ROUTES}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in known
    pause_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod()["terminationGracePeriodSeconds"] > pause_s + DRAIN_S


def test_a_pod_is_the_user_of_the_image_and_writes_only_to_its_state() -> None:
    (container,), security = pod()["containers"], pod()["securityContext"]
    user = dict(instructions())["USER"]
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == user
    assert security["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert mounts == {"/workspace": True, "/state": False, "/tmp": False, "/dev/shm": False}  # noqa: S108
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert {each["name"] for each in container["env"]} <= variables()


def in_cluster() -> dict[str, Any]:
    """The manifests of a cluster, by kind and name."""
    return {f"{each['kind']} {each['metadata']['name']}": each for each in yaml.safe_load_all(CLUSTER.read_text())}


def pods_of(workload: Any) -> Any:
    return workload["spec"]["template"]["spec"]


def test_the_server_finds_the_agents_that_the_daemon_set_starts() -> None:
    """By the name and the port of the headless service, which selects them."""
    found = in_cluster()
    service, daemons = found["Service proteus-agents"], found["DaemonSet proteus-agent"]
    assert service["spec"]["clusterIP"] == "None"
    labels = daemons["spec"]["template"]["metadata"]["labels"]
    assert labels == service["spec"]["selector"] == daemons["spec"]["selector"]["matchLabels"]
    (agent,), (server,) = pods_of(daemons)["containers"], pods_of(found["Deployment proteus"])["containers"]
    (port,) = service["spec"]["ports"]
    assert agent["ports"] == [{"name": port["targetPort"], "containerPort": port["port"]}]
    assert agent["args"][-1] == f"0.0.0.0:{port['port']}"
    assert server["args"][-2:] == ["--cluster", f"kubernetes:{service['metadata']['name']}:{port['port']}"]
    (name,) = [each for each in agent["env"] if each["name"] == "PROTEUS_NAME"]
    assert name["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}


@pytest.mark.parametrize(
    ("workload", "command", "key"),
    [("DaemonSet proteus-agent", "agent", "PROTEUS_KEY"), ("Deployment proteus", "serve", "PROTEUS_CLUSTER_KEY")],
)
def test_pods_of_a_cluster_have_its_key_and_few_rights(workload: str, command: str, key: str) -> None:
    pods = pods_of(in_cluster()[workload])
    (container,), security = pods["containers"], pods["securityContext"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert container["args"][0] == command
    assert environment.keys() <= variables(command)
    assert environment[key] == "/key/cluster.pem"
    assert {"name": "key", "mountPath": "/key", "readOnly": True} in container["volumeMounts"]
    (secret,) = [each["secret"] for each in pods["volumes"] if each["name"] == "key"]
    assert secret == {"secretName": "proteus-cluster-key", "defaultMode": 0o400}
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == dict(instructions())["USER"]
    assert security["fsGroup"] == security["runAsGroup"], "else nobody but root may read the key"
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["resources"]["requests"] == container["resources"]["limits"]


def test_an_agent_is_up_once_it_listens_and_lives_while_it_answers() -> None:
    """To a connection alone the system answers for a process that hangs. The check needs the state and the key."""
    (agent,) = pods_of(in_cluster()["DaemonSet proteus-agent"])["containers"]
    for probe in ("startupProbe", "readinessProbe"):
        assert agent[probe]["tcpSocket"] == {"port": agent["ports"][0]["name"]}
    liveness = agent["livenessProbe"]
    assert liveness["exec"] == {"command": ["proteus", "agent", "--check"]}
    assert liveness["timeoutSeconds"] > 2 * CONNECT_S
    assert "--state" not in agent["args"], "the check and the agent have that of the image"
    assert "PROTEUS_STATE" in dict(instructions())["ENV"]


def test_of_the_servers_of_a_cluster_there_is_one_at_a_time() -> None:
    """And it has the probes of `proteus.yaml`."""
    server = in_cluster()["Deployment proteus"]
    assert (server["spec"]["replicas"], server["spec"]["strategy"]) == (1, {"type": "Recreate"})
    (container,), (alone,) = pods_of(server)["containers"], pod()["containers"]
    for each in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "ports"):
        assert container[each] == alone[each]


# --- Prometheus


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    done = ran(tool("promtool"), "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    assert done.returncode == 0, done.stderr
    assert "rules found" in done.stdout


def test_alerts_come_when_they_should_and_not_before(tmp_path: Path) -> None:
    cases = tmp_path / "alerts_test.yml"
    cases.write_text(Path(__file__).with_name("alerts_test.yml").read_text().replace("ALERTS", str(ALERTS)))
    done = ran(tool("promtool"), "test", "rules", cases)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_described_and_asks_for_metrics_that_there_are() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    cases = Path(__file__).with_name("alerts_test.yml").read_text()
    page = (ROOT / "docs" / "deploy.md").read_text()
    metrics = (ROOT / "docs" / "observability.md").read_text()
    for rule in rules:
        assert f"alertname: {rule['alert']}" in cases
        assert f"`{rule['alert']}`" in page
        for metric in re.findall(r"proteus_\w+", rule["expr"]):
            assert f"| `{metric}` |" in metrics, metric
