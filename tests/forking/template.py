"""The process that programs are forked from: ``python template.py DESCRIPTOR MODULE …`` (its end of a socket).

It imports the modules, and forks whenever it is asked to. Each of its children becomes a program of its own: with its
arguments, environment, directory, process group, limits and open files, with whatever Python does before the first line
of a program, and with Python's usual end. Nothing that it imports may start a thread, as children would lack it.
Programs may have their own children forked, too, over a socket that all of them have (`forking.program.fork_children`).
"""

import fcntl
import gc
import io
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

MAX_CALL_BYTES = 2**17
NUMBER_BYTES = 8
MAX_FILES = 8
"""stdin, stdout, stderr, those that are passed on; and where it is told which process it is, and how that has ended."""
STANDARD, FIRST_FREE = 3, 1000
TESTS = Path(__file__).parents[1]
TASKS, STATUS = Path("/proc/self/task"), Path("/proc/self/status")
LIMITS = (
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_AS,
    resource.RLIMIT_CORE,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NPROC,
)


def main() -> None:
    """Fork until nobody asks any more. In a child, this returns, and the program has been the last thing it did."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    of_programs, to_us = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sys.path[0] = str(TESTS)
    for module in sys.argv[2:]:
        import_module(module)
    tasks = list(TASKS.iterdir())
    assert len(tasks) == 1, f"what was imported has started {len(tasks) - 1} threads"
    gc.collect()
    gc.freeze()
    asked = _next_call(channel, of_programs)
    if asked is not None:
        _become(*asked, to_us.fileno())


def _next_call(channel: socket.socket, of_programs: socket.socket) -> tuple[Any, list[int]] | None:
    """In a child, what it is to become; None where nobody asks any more."""
    asking = {each.fileno(): each for each in (channel, of_programs)}
    running: dict[int, tuple[int, int]] = {}
    poll = select.poll()
    for each in asking:
        poll.register(each, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready not in asking:
                poll.unregister(ready)
                child, status = running.pop(ready)
                with suppress(BrokenPipeError):  # whoever asked for it has ended before it
                    os.write(status, os.waitpid(child, 0)[1].to_bytes(NUMBER_BYTES))
                os.close(ready)
                os.close(status)
                continue
            received, files, _, _ = socket.recv_fds(asking[ready], MAX_CALL_BYTES, MAX_FILES)
            if not received:
                return None
            child = os.fork()
            if not child:
                return json.loads(received), files
            for file in files[:-1]:
                os.close(file)
            ended = os.pidfd_open(child)
            running[ended] = child, files[-1]
            poll.register(ended, select.POLLIN)


def _become(call: Mapping[str, Any], files: Sequence[int], to_template: int) -> None:
    to_template = fcntl.fcntl(to_template, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE)
    *passed, status = (fcntl.fcntl(file, fcntl.F_DUPFD, FIRST_FREE) for file in files)
    numbers = [*range(STANDARD), *call["passed"]]
    for number, file in zip(numbers, passed, strict=True):
        os.dup2(file, number)
    inherit(call["inherited"])
    if call["process_group"] >= 0:
        os.setpgid(0, call["process_group"])
    os.write(status, os.getpid().to_bytes(NUMBER_BYTES))
    os.chdir(call["directory"])
    os.environ.clear()
    os.environ.update(call["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kept = sorted([*numbers, *[to_template] * call["forks_children"]])
    for first, last in pairwise([*kept, os.sysconf("SC_OPEN_MAX")]):
        os.closerange(first + 1, last)
    _open_standard_files()
    if call["forks_children"]:
        import_module("forking.program").fork_children(to_template)
    module, *arguments = call["arguments"]
    sys.argv[1:], sys.path[0] = arguments, os.getcwd()  # noqa: PTH109 - as Python does
    sys.path += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    sys.modules.pop(f"{module}.__main__", None)
    sys.modules.pop(module, None)  # what was imported before it is run is a warning of `runpy`
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def inherited() -> dict[str, Any]:
    """What a process that we started would inherit, beside its environment, directory and files."""
    (umask,) = (line.split()[1] for line in STATUS.read_text().splitlines() if line.startswith("Umask:"))
    return {
        "limits": [resource.getrlimit(kind) for kind in LIMITS],
        "cores": sorted(os.sched_getaffinity(0)),
        "umask": int(umask, 8),
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
    }


def inherit(found: Mapping[str, Any]) -> None:
    for kind, limits in zip(LIMITS, found["limits"], strict=True):
        resource.setrlimit(kind, tuple(limits))
    os.sched_setaffinity(0, found["cores"])
    os.umask(found["umask"])
    signal.pthread_sigmask(signal.SIG_SETMASK, found["blocked"])
    os.setpriority(os.PRIO_PROCESS, 0, found["nice"])


def _open_standard_files() -> None:
    """As Python does at its start, which looks whether they are terminals."""
    for file, name in enumerate(("stdin", "stdout", "stderr")):
        before: io.TextIOWrapper = getattr(sys, name)
        raw = open(file, "wb" if file else "rb", 0 if before.write_through else -1, closefd=False)  # noqa: SIM115
        lines = not before.write_through and (name == "stderr" or raw.isatty())
        opened = io.TextIOWrapper(
            raw, before.encoding, before.errors, line_buffering=lines, write_through=before.write_through
        )
        setattr(sys, name, opened)
        setattr(sys, f"__{name}__", opened)


if __name__ == "__main__":
    main()
