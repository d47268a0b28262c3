"""``proteus agent``: offer the devices of this machine to the server of a cluster."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from proteus_cli.cli import console, options
from proteus_cli.cli.command_line import sections
from proteus_cli.errors import UsageError
from proteus_cli.serving.logs import LogFormat
from proteus_cli.settings import environment

if TYPE_CHECKING:
    import socket


def agent(
    *,
    listen: Annotated[
        str,
        Option(
            metavar="HOST:PORT", envvar=environment("listen"), help="Where to listen for servers; port 0 picks one."
        ),
    ] = "127.0.0.1:7000",
    key: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            envvar=environment("key"),
            show_default="none: servers of this machine only",
            help="The cluster's key, which `proteus cluster key` makes.",
            rich_help_panel=sections.SECURITY,
        ),
    ] = None,
    name: Annotated[
        str | None,
        Option(
            metavar="NAME",
            envvar=environment("name"),
            show_default="the machine's",
            help="The name of this host, for servers that find agents by address (Kubernetes).",
        ),
    ] = None,
    keeper: Annotated[
        int | None,
        Option(
            metavar="PID",
            envvar=environment("keeper"),
            help="A process that keeps this agent: once that has ended, the agent ends when it has had no server for "
            "10 s.",
        ),
    ] = None,
    state: Annotated[
        Path,
        Option(
            metavar="DIR",
            envvar=environment("state"),
            help="The directory for models that servers send, and for engines that are built.",
        ),
    ] = Path("agent"),
    max_models_size: Annotated[
        int | None,
        Option(
            **options.SIZE,
            envvar=environment("max-models-size"),
            show_default="half of what the disk has for them",
            help="What models that servers send may take of the disk; those that were used least recently go first.",
            rich_help_panel=sections.LIMITS,
        ),
    ] = None,
    emulate: Annotated[
        bool,
        Option(
            "--emulate",
            help="Have no devices, and emulate those of servers with `--emulate`.",
            rich_help_panel=sections.DEVICES,
        ),
    ] = False,
    check: Annotated[
        bool,
        Option(
            "--check",
            help="Start none: ask the agent that has the `--state` whether it works. Exit code 4 where it does not "
            "answer, or there is none.",
        ),
    ] = False,
    log_format: options.LogFormat = LogFormat.TEXT,
    log_level: options.LogLevel = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
) -> None:
    """Offer the devices of this machine to `proteus serve --cluster`, until SIGTERM or Ctrl-C.

    The agent keeps the models that servers send, builds and loads engines, and runs batches. Several servers may share
    its devices: their batches take turns. It needs no workspace; the section `devices` of a proteus.toml defines which
    cores make a device. With --emulate, it emulates the devices of a plan that is served with --emulate, to rehearse a
    cluster.
    """
    if check:
        _check(state, key)
        return
    from proteus_cli.backends.discovery import discover
    from proteus_cli.serving.agent.agent import AgentSettings, run_agent
    from proteus_cli.serving.logs import set_up
    from proteus_cli.settings import read_settings

    set_up(log_level or console.log_level(), log_format, sys.stderr)
    host_name = _host_name(name)
    devices = discover(read_settings(workspace_dir).devices) if not emulate else []
    settings = AgentSettings(devices, state, key, host_name, keeper, emulates=emulate, max_models_bytes=max_models_size)
    with _listening(listen, has_key=key is not None) as listener:
        run_agent(settings, listener, lambda: _announce(listener, emulates=emulate))


def _check(state: Path, key: Path | None) -> None:
    """Have the agent that keeps its models in ``state`` answer within `CONNECT_S`.

    The answer needs the event loop of the agent: the system still accepts connections to a process that hangs. Raises
    `DeviceUnavailable` if there is no agent, or none that answers with this key; `ArtefactError` for an unusable key.
    """
    import asyncio

    from proteus_cli.errors import DeviceUnavailable
    from proteus_cli.serving.agent.claim import agent_in
    from proteus_cli.serving.devices.remote.channel.address import AgentAddress
    from proteus_cli.serving.devices.remote.channel.tls import cluster_tls
    from proteus_cli.serving.devices.remote.sessions.connecting import probe
    from proteus_cli.units import counted, format_duration

    record = agent_in(state)
    if record is None:
        raise DeviceUnavailable(
            f"No agent keeps its models in `{state}`.", hint="name the directory of the agent with `--state`"
        )
    tls = cluster_tls(key, listens=False) if key is not None else None
    where = f"{record.host}:{record.port}"
    try:
        inventory, took_s = asyncio.run(probe(AgentAddress("here", record.host, record.port, tls)))
    except OSError as error:
        raise DeviceUnavailable(
            f"The agent at {where}, process {record.pid}, does not answer: {str(error) or 'it took too long'}.",
            hint="it hangs, or has another key: `--key` must be the one that it was started with",
        ) from error
    has = f"{counted(len(inventory.devices), 'device')}, {counted(len(inventory.servers), 'server')}"
    console.say(f"the agent at {where} answered within {format_duration(took_s)}: {has}")


def _host_name(name: str | None) -> str:
    """The given name, or the name of the machine if it is valid; the empty name means none. Raises `UsageError`."""
    from socket import gethostname

    from proteus_cli.domain.catalog import is_name

    if name is None:
        machine = gethostname()
        return machine if is_name(machine) else ""
    if not is_name(name):
        raise UsageError(f"`{name}` is no name of a host.", hint="use letters, digits, `.`, `_`, `-`")
    return name


def _listening(address: str, *, has_key: bool) -> "socket.socket":
    from proteus_cli.serving.transport.listening import is_loopback
    from proteus_cli.serving.transport.listening import listen as listen_on
    from proteus_cli.store import split_address

    try:
        host, port = split_address(address)
    except ValueError as error:
        raise UsageError(f"`--listen`: {error}.", hint="port 0 picks a free one") from None
    listener = listen_on(host, port, hint="choose another address with `--listen`")
    if not has_key and not is_loopback(listener):
        listener.close()
        raise UsageError(
            f"Other machines can reach `{address}`, and without a key anyone there could run models here.",
            hint="give `--key cluster.pem`, which `proteus cluster key` makes, or listen on 127.0.0.1",
        )
    return listener


def _announce(listener: "socket.socket", *, emulates: bool) -> None:
    host, port = listener.getsockname()[:2]
    words = ["ready", f"{f'[{host}]' if ':' in host else host}:{port}", *(["emulated"] if emulates else [])]
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()
