"""`proteus agent --check`, the liveness probe of deploy/kubernetes, asks agents in processes of their own."""

import os
import signal
from pathlib import Path

import pytest
from command_line import Ended, proteus
from live_agents import agents

from proteus_cli.serving.cluster.new_key import write_key

pytestmark = [pytest.mark.live]


def checked(state: Path, *options: str | Path) -> Ended:
    return proteus("agent", "--check", "--state", state, *options)


def test_an_agent_that_hangs_takes_connections_and_fails_its_check(tmp_path: Path) -> None:
    key = tmp_path / "cluster.pem"
    write_key(key)
    with agents(tmp_path, "a", key, emulate=True) as running:
        agent = running["a"]
        works = checked(agent.directory, "--key", key)
        assert works.code == 0, works
        assert checked(agent.directory, "--key", key).code == 0
        assert "a connection from" not in agent.log, "checks fill no log"
        assert f"the agent at 127.0.0.1:{agent.port} answered within" in works.stderr
        assert "does not answer" in checked(agent.directory).refused(4), "without the key nobody is answered"

        os.kill(agent.pid, signal.SIGSTOP)
        assert "does not answer" in checked(agent.directory, "--key", key).refused(4)

        os.kill(agent.pid, signal.SIGCONT)
        assert checked(agent.directory, "--key", key).code == 0
        agent.kill()
        assert "No agent keeps its models" in checked(agent.directory, "--key", key).refused(4)
