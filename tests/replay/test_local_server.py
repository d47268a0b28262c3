"""A server that runs for a replay ends with it, whatever ends the replay."""

import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from injecting import descendants, is_gone
from tiny import Tiny, add_plan

from proteus_cli.errors import ServerError
from proteus_cli.replay import local_server as module
from proteus_cli.replay.local_server import local_server

WITHIN_S = 60.0

REPLAY = """
import asyncio, sys
from pathlib import Path
import uvloop
from proteus_cli.replay.local_server import local_server

async def replay(url):
    print(url, flush=True)
    await asyncio.sleep(600)

with local_server(Path("plan"), Path(sys.argv[1]), emulate=True) as url:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(replay(url))
"""


@pytest.mark.live
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_replay_ends_the_server_first(tiny: Tiny, number: signal.Signals) -> None:
    """Even where it comes twice, as from `timeout`, which signals a process and then its group."""
    add_plan(tiny, {"cpu0": "shapes-s", "cpu1": "tones-s"})
    call = ("env", f"--default-signal={number}", sys.executable, "-c", REPLAY, str(tiny.root))
    with subprocess.Popen(call, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        url = urlsplit(process.stdout.readline())
        socket.create_connection((url.hostname, url.port), WITHIN_S).close()
        started = descendants(process.pid)
        assert started
        process.send_signal(number)
        process.send_signal(number)
        assert process.wait(WITHIN_S) == 128 + number
    assert all(map(is_gone, started))


@pytest.mark.live
def test_handlers_of_signals_are_what_they_were_before(tiny: Tiny) -> None:
    add_plan(tiny, {"cpu0": "shapes-s", "cpu1": "tones-s"})
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with local_server(tiny.place.plans_dir / "plan.json", tiny.root, emulate=True):
        pass
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_server_that_neither_gets_ready_nor_ends_is_killed_and_told_with_its_log(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = "import signal, sys; signal.signal(15, signal.SIG_IGN); print('no', flush=True); signal.pause()"
    monkeypatch.setattr(module, "PROTEUS", (sys.executable, "-c", deaf))
    monkeypatch.setattr(module, "STOP_TIMEOUT_S", 0.1)
    with (
        pytest.raises(ServerError, match="did not get ready"),
        local_server(tiny.place.plans_dir / "plan.json", tiny.root, emulate=True),
    ):
        pass
