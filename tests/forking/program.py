"""Programs in processes that are forked from one that has imported what they need: most of what a start takes.

Tests that are about the start itself, about signals to whoever starts it, or about terminals start a program as a shell
does. What servers and agents start is forked, too, but in tests marked `from_nothing`.
"""

import atexit
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from forking import template
from forking.template import NUMBER_BYTES, inherited

from proteus_cli.serving import child_process

ROOT = Path(__file__).parents[2]
UNKNOWN = -1
ENVIRONMENT = dict(os.environ)
"""Before any test has changed it: what a test has Python do at its start would be done in every program."""
are_children_forked = True
"""Of programs that are started here."""


class Forking:
    """Whoever may ask a template for programs, over a socket to it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel, self._lock = channel, threading.Lock()

    def fork(self, call: Mapping[str, Any], files: Sequence[int]) -> tuple[int, int]:
        """The process that becomes a program, and a file that tells how it ends."""
        told, status = os.pipe()
        with self._lock:
            socket.send_fds(self._channel, [json.dumps(call).encode()], [*files, status])
        os.close(status)
        return read_number(told), told


class Template(Forking):
    """A process that has imported some modules, and forks.

    It ends when nobody has it any more, or with this process. ``environment``: what Python and its libraries read at
    their start; the programs get their own.
    """

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str], directory: Path = ROOT) -> None:
        self.environment = dict(environment)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(ours)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, template.__file__, str(theirs.fileno()), *modules],
                stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], cwd=directory,
                env={**environment, "OPENBLAS_NUM_THREADS": "1"},  # else threads start when NumPy is imported
            )  # fmt: skip

    def close(self) -> None:
        """Wait until it has ended; its programs go on."""
        self._channel.close()
        self._process.wait()


def read_number(file: int) -> int:
    said = os.read(file, NUMBER_BYTES)
    assert said, "the process that programs are forked from has ended"
    return int.from_bytes(said)


class Program(subprocess.Popen[Any]):
    """``python -m MODULE …`` in a process that is no child of ours but otherwise as any that `subprocess.Popen` starts.

    ``arguments`` are those after the ``-m``; with ``forks_children``, its own children are forked as well. All but what
    is done here is done as by the class above, whose private methods this stands on.
    """

    def __init__(
        self, parent: Forking, arguments: Sequence[str], *, forks_children: bool = False, **as_of_popen: Any
    ) -> None:
        self._parent, self._told, self._forks_children = parent, UNKNOWN, forks_children
        super().__init__(arguments, **as_of_popen)

    def _execute_child(self, *positional: Any) -> None:
        arguments, _, prepare, _, passed, directory, environment, _, _, shell, *files = positional[:16]
        process_group, is_session = positional[-1], positional[-2]
        assert not any((prepare, shell, is_session)), "not for programs that are forked"
        to_program, _, _, from_program, _, errors = files
        call = {
            "arguments": list(map(str, arguments)),
            "environment": dict(os.environ if environment is None else environment),
            "directory": str(Path(directory or "").absolute()),
            "inherited": inherited(),
            "passed": list(passed),
            "forks_children": self._forks_children,
            "process_group": UNKNOWN if process_group is None else process_group,
        }
        standard = [our if file == UNKNOWN else file for our, file in enumerate((to_program, from_program, errors))]
        try:
            self.pid, self._told = self._parent.fork(call, [*standard, *passed])
        finally:
            self._close_pipe_fds(*files)  # type: ignore[attr-defined]
        self._child_created = True

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        lock: threading.Lock = self._waitpid_lock  # type: ignore[attr-defined]
        if self.returncode is None and lock.acquire(blocking=False):  # else a thread waits, and will know
            try:
                # Whoever had the lock before may have heard of the end, and closed the file.
                process, status = self._try_wait(os.WNOHANG) if self._told != UNKNOWN else (0, 0)
                if process:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                lock.release()
        return self.returncode

    def _try_wait(self, flags: int) -> tuple[int, int]:
        """As `os.waitpid` of a child does."""
        poll = select.poll()  # `select.select` knows no more than 1024 files
        poll.register(self._told, select.POLLIN)
        if not poll.poll(0 if flags & os.WNOHANG else None):
            return 0, 0
        status = read_number(self._told)
        os.close(self._told)
        self._told = UNKNOWN
        return self.pid, status


OF_PROTEUS = (
    "forking.commands",
    "proteus_cli.backends.onnxruntime",
    "proteus_cli.serving.workspace.deployment",
    "proteus_cli.planning.planner",
    "proteus_cli.serving.agent.agent",
    "proteus_cli.serving.devices.process.device_server",
    "proteus_cli.serving.server.server",
    "proteus_cli.serving.transport.tls",
    "encodings.ascii",
    "encodings.idna",
    "importlib.readers",
    "scipy.optimize",
    "tomllib",
)
"""What commands, and processes of solvers and devices, import in any case: at their start, or at the first need."""


@cache
def of_proteus() -> Template:
    """What `proteus` is forked from."""
    made = Template(("forking.program", *(module for module, _ in STARTING_CHILDREN), *OF_PROTEUS), ENVIRONMENT)
    atexit.register(made.close)
    return made


def start_proteus(arguments: Sequence[str | Path], **as_of_popen: Any) -> "subprocess.Popen[Any]":
    """``python -m proteus_cli …``, as `subprocess.Popen` starts it; from nothing where Python shall start otherwise."""
    module = ["proteus_cli", *map(str, arguments)]
    if _read_at_start(as_of_popen.get("env", os.environ)) != _read_at_start(of_proteus().environment):
        return subprocess.Popen([sys.executable, "-m", *module], **as_of_popen)
    return Program(of_proteus(), module, forks_children=are_children_forked, **as_of_popen)


def start_child(module: str, descriptor: int, parent: Forking | None = None) -> "subprocess.Popen[bytes]":
    """As `child_process.start_process` does, but that it is a child of the template: it ends with its connection."""
    with child_process.group_signals_blocked():
        return Program(
            parent or of_proteus(), [module, str(descriptor)], stdin=subprocess.DEVNULL, stdout=2,
            pass_fds=[descriptor], env=child_process.environment(), process_group=os.getpgrp(),
        )  # fmt: skip


def start_server(arguments: Sequence[str], log: BinaryIO, parent: Forking | None = None) -> "subprocess.Popen[bytes]":
    """As `local_server.start_server` does."""
    return Program(
        parent or of_proteus(), ["proteus_cli", "serve", *arguments], forks_children=are_children_forked,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, process_group=0,
    )  # fmt: skip


STARTING_CHILDREN: Mapping[tuple[str, str], Callable[..., "subprocess.Popen[bytes]"]] = {
    ("proteus_cli.serving.adaptation.solver", "start_process"): start_child,
    ("proteus_cli.serving.devices.process.starting", "start_process"): start_child,
    ("proteus_cli.replay.local_server", "start_server"): start_server,
}
"""By module and name, what starts processes, and what stands for it."""


def fork_children(descriptor: int) -> None:
    """Of this program, which has a socket to what it was forked from."""
    parent = Forking(socket.socket(fileno=descriptor))
    for (module, name), ours in STARTING_CHILDREN.items():
        vars(import_module(module))[name] = partial(ours, parent=parent)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(("LD_", "PYTHON"))}
