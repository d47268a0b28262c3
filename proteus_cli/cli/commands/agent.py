"""``proteus agent``: offer the devices of this machine to the server of a cluster."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from proteus_cli.cli import console
from proteus_cli.cli.options import cluster as options
from proteus_cli.cli.options import common
from proteus_cli.cli.options import serve as serve_options
from proteus_cli.errors import UsageError
from proteus_cli.serving.logs import LogFormat

if TYPE_CHECKING:
    import socket


def agent(
    *,
    listen: options.Listen = "127.0.0.1:7000",
    key: options.Key = None,
    name: options.HostName = None,
    keeper: options.Keeper = None,
    state: options.AgentState = Path("agent"),
    max_models_size: options.MaxModelsSize = None,
    emulate: options.AgentEmulates = False,
    check: options.CheckAgent = False,
    log_format: serve_options.LogFormat = LogFormat.TEXT,
    log_level: serve_options.LogLevel = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
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
    from proteus_cli.serving.transport.cluster_key import cluster_tls
    from proteus_cli.settings import read_settings

    set_up(log_level or console.log_level(), log_format, sys.stderr)
    tls = cluster_tls(key, listens=True) if key is not None else None
    host_name = _host_name(name)
    devices = discover(read_settings(workspace_dir).devices) if not emulate else []
    settings = AgentSettings(devices, state, tls, host_name, keeper, emulates=emulate, max_models_bytes=max_models_size)
    with _listening(listen, has_key=key is not None) as listener:
        run_agent(settings, listener, lambda: _announce(listener, emulates=emulate))


def _check(state: Path, key: Path | None) -> None:
    from proteus_cli.cli.workflows.cluster.agent_check import check_agent
    from proteus_cli.units import counted, format_duration

    address, inventory, took_s = check_agent(state, key)
    has = f"{counted(len(inventory.devices), 'device')}, {counted(len(inventory.servers), 'server')}"
    console.say(f"the agent at {address.host}:{address.port} answered within {format_duration(took_s)}: {has}")


def _host_name(name: str | None) -> str:
    """The name that was given, or that of the machine, if it can be one: else nobody may need it."""
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
