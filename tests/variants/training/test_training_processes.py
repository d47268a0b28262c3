"""Commands that train: their limits, their output, and that nothing of them is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from command_line import hearing_interrupts

from proteus_cli.errors import TrainingFailed
from proteus_cli.variants.training import processes
from proteus_cli.variants.training.processes import EndedCommand, Limits, require_success, run_command

GENEROUS = Limits(time_s=600, memory_bytes=2**32)
LEAVES_A_CHILD = "sleep 1000 & echo $! >child; "


def run(script: str, directory: Path, limits: Limits = GENEROUS) -> tuple[EndedCommand, list[str]]:
    lines: list[str] = []
    return run_command(["sh", "-c", script], directory, limits, lines.append), lines


def wait_until(holds: Callable[[], bool]) -> None:
    while not holds():  # pytest ends a test that waits in vain
        time.sleep(0.02)


def is_there(pid: int) -> bool:
    """Whether a process runs: it is neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def said_its_child(directory: Path) -> bool:
    return (directory / "child").exists() and (directory / "child").read_text().endswith("\n")


def test_each_line_of_both_streams_is_told(tmp_path: Path) -> None:
    assert run("echo one; echo two >&2; pwd", tmp_path) == (
        EndedCommand(0, is_late=False),
        ["one", "two", str(tmp_path)],
    )


def test_an_exit_code_is_told(tmp_path: Path) -> None:
    ended, _ = run("exit 3", tmp_path)
    with pytest.raises(TrainingFailed, match=r"^it ended with exit code 3\.$"):
        require_success(ended, "it", GENEROUS)


def test_a_signal_is_told(tmp_path: Path) -> None:
    ended, _ = run("kill -SEGV $$", tmp_path)
    with pytest.raises(TrainingFailed, match=r"^it was killed by SIGSEGV\.$"):
        require_success(ended, "it", GENEROUS)


def test_a_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    lines: list[str] = []
    ended = run_command(["no-such-command"], tmp_path, GENEROUS, lines.append)
    assert lines == ["no-such-command: No such file or directory"]
    with pytest.raises(TrainingFailed, match="there is no such command"):
        require_success(ended, "it", GENEROUS)


def test_what_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is over once it has started a child."""

    def now_s() -> float:
        return 2.0 if said_its_child(tmp_path) else 0.0

    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=now_s, sleep=time.sleep))
    ended, _ = run(f"{LEAVES_A_CHILD} wait", tmp_path, Limits(1.0, 2**32))
    assert ended.is_late
    wait_until(lambda: not is_there(int((tmp_path / "child").read_text())))
    with pytest.raises(TrainingFailed, match=r"^it took more than 1\.0 s, and was ended\.$"):
        require_success(ended, "it", Limits(1.0, 2**32))


def test_what_a_command_leaves_behind_is_ended(tmp_path: Path) -> None:
    ended, _ = run(f"{LEAVES_A_CHILD} exit 0", tmp_path)
    assert ended == EndedCommand(0, is_late=False)
    wait_until(lambda: not is_there(int((tmp_path / "child").read_text())))


def test_memory_above_the_limit_is_not_granted(tmp_path: Path) -> None:
    lines: list[str] = []
    taking = [sys.executable, "-c", "bytearray(2**29)"]
    ended = run_command(taking, tmp_path, Limits(600, 2**28), lines.append)
    assert (ended.code, lines[-1]) == (1, "MemoryError")
    assert run_command(taking, tmp_path, GENEROUS, lines.append).code == 0


def test_it_gives_way_and_has_none_of_our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTEUS_TOKEN", "secret")
    now = os.nice(0)
    _, lines = run("nice; env | grep -c PROTEUS_", tmp_path, Limits(600, 2**32, niceness=3))
    assert lines == [str(min(19, now + 3)), "0"]


def test_an_interrupt_ends_all_of_it(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from proteus_cli.variants.training.processes import *\n"
        f"run_command(['sh', '-c', '{LEAVES_A_CHILD} wait'], Path('.'), Limits(600, 2**32), print)"
    )
    with subprocess.Popen(
        hearing_interrupts([sys.executable, "-c", program]), cwd=tmp_path, stderr=subprocess.PIPE
    ) as ours:
        wait_until(lambda: said_its_child(tmp_path))
        ours.send_signal(signal.SIGINT)
        _, stderr = ours.communicate(timeout=60)
    assert b"KeyboardInterrupt" in stderr
    wait_until(lambda: not is_there(int((tmp_path / "child").read_text())))


def test_an_interrupt_while_it_starts_ends_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Thread):
        def start(self) -> None:
            wait_until(lambda: said_its_child(tmp_path))
            raise KeyboardInterrupt

    monkeypatch.setattr(processes, "Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(f"{LEAVES_A_CHILD} wait", tmp_path)
    wait_until(lambda: not is_there(int((tmp_path / "child").read_text())))


def test_output_without_an_end_of_line_is_told_in_parts(tmp_path: Path) -> None:
    _, lines = run("head -c 5000 /dev/zero | tr '\\0' a", tmp_path)
    assert [len(line) for line in lines] == [2000, 2000, 1000]
