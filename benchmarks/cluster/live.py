"""Servers, agents and clients in processes of their own, as the live tests have them; tests are no package."""

import sys
from pathlib import Path

_TESTS = Path(__file__).parents[2] / "tests"
sys.path[:0] = [str(_TESTS / "live"), str(_TESTS / "cli"), str(_TESTS)]

from injecting import metric, until  # noqa: E402
from live_agents import LiveAgent, agents, write_hosts  # noqa: E402
from live_server import LiveServer, serving  # noqa: E402
from relay import Relay  # noqa: E402
from small_cluster import make_emulated_hosts, one_row  # noqa: E402
from steady import Steady, asking, violations  # noqa: E402

__all__ = [
    "LiveAgent",
    "LiveServer",
    "Relay",
    "Steady",
    "agents",
    "asking",
    "make_emulated_hosts",
    "metric",
    "one_row",
    "serving",
    "until",
    "violations",
    "write_hosts",
]
