"""``proteus serve``: run a plan in the foreground."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proteus_cli.cli import console
from proteus_cli.cli.options import DEFAULT_WORKSPACE, DURATION, SIZE, WorkspaceOption, environment
from proteus_cli.errors import ArtefactError, DeviceUnavailable, UsageError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

    from proteus_cli.domain.catalog import Family, Variant
    from proteus_cli.domain.device import Device
    from proteus_cli.serving.server import Deployment
    from proteus_cli.serving.tokens import Tokens
    from proteus_cli.store import Workspace


class NonFinite(StrEnum):
    """What becomes of NaN and infinity."""

    PASS = "pass"  # noqa: S105 - no password
    REFUSE = "refuse"


def serve(
    plan: Annotated[Path, typer.Argument(help="The plan: a path, or a name in plans/.")],
    *,
    host: Annotated[str, typer.Option(envvar=environment("host"), help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, envvar=environment("port"), help="HTTP port; 0 picks a free one.")
    ] = 8000,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            envvar=environment("grpc_port"),
            help="gRPC port; 0 picks a free one.",
            show_default="no gRPC",
        ),
    ] = None,
    replan: Annotated[bool, typer.Option("--replan/--no-replan", help="Change the plan as the demand changes.")] = True,
    batching: Annotated[
        str | None,
        typer.Option(
            help="How batches form: greedy; proteus: wait for company while the SLO allows; aimd; nexus; static-N.",
            show_default="greedy",
        ),
    ] = None,
    max_body: Annotated[float, typer.Option(**SIZE, help="The largest request body.")] = "64MiB",  # type: ignore[assignment]
    non_finite: Annotated[
        NonFinite,
        typer.Option(envvar=environment("non_finite"), help="NaN and infinity in tensors: answered, or errors."),
    ] = NonFinite.PASS,
    max_connections: Annotated[
        int, typer.Option(min=1, help="The most connections; others are told to come back.")
    ] = 4096,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Speak TLS only, with this certificate (PEM); needs --tls-key.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The key of that certificate (PEM).")] = None,
    auth_tokens: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Answer only who has a bearer token of this file; one a line, # comments."),
    ] = None,
    drain_timeout: Annotated[float, typer.Option(**DURATION, help="The longest that draining may take.")] = "10s",  # type: ignore[assignment]
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """Serve the plan over HTTP, and gRPC where asked (Open Inference Protocol v2), until SIGTERM or Ctrl-C.

    A second signal ends at once.
    """
    from proteus_cli.serving.server import ServerOptions
    from proteus_cli.serving.server import serve as run_server

    _log_to_stderr()
    options = ServerOptions(
        host,
        port,
        grpc_port,
        max_body_bytes=int(max_body),
        max_connections=max_connections,
        drain_timeout_s=drain_timeout,
        refuses_non_finite=non_finite is NonFinite.REFUSE,
        tls=_tls(tls_cert, tls_key),
        tokens=_tokens(auth_tokens),
    )
    run_server(_deployment(plan, workspace, replan=replan, batching=batching), options, _announce)
    console.say("drained, stopped")


def _tls(certificate: Path | None, key: Path | None) -> "Callable[[Sequence[str]], ssl.SSLContext] | None":
    from functools import partial

    from proteus_cli.serving.tls import tls_context

    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("`--tls-cert` and `--tls-key` go together.", hint="give both, or neither")
    tls_context(certificate, key, ())  # say at once what is wrong with them
    return partial(tls_context, certificate, key)


def _tokens(path: Path | None) -> "Tokens | None":
    from proteus_cli.serving.tokens import read_tokens

    return read_tokens(path) if path is not None else None


def _announce(urls: str) -> None:
    sys.stdout.write(f"ready {urls}\n")
    sys.stdout.flush()


def _log_to_stderr() -> None:
    import logging

    level = logging.DEBUG if console.loudness.verbose else logging.WARNING if console.loudness.quiet else logging.INFO
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("proteus").setLevel(level)


def _deployment(name: Path, workspace: Path, *, replan: bool, batching: str | None) -> "Deployment":
    """All that serving needs, checked: the plan is current, its devices are here, its models what they were."""
    from dataclasses import replace

    from proteus_cli.backends.discovery import discover
    from proteus_cli.cli.planning import planner_for
    from proteus_cli.control.hosting import measured_for
    from proteus_cli.control.policies import batcher_named, live_policy_named
    from proteus_cli.serving.server import Deployment
    from proteus_cli.settings import read_settings
    from proteus_cli.store import Workspace

    place = Workspace(workspace)
    plan = place.plan(name)
    place.require_current(plan.inputs)
    catalog = place.catalog()
    profiles = place.profiles_of(plan)
    here = {device.id: device for device in discover(read_settings(workspace).devices)}
    for profile in profiles.values():
        _require_here(profile.device, here)
    for placement in plan.placements:
        measured_for(placement, profiles)
        catalog.family(placement.family).variant(placement.variant)
    policy = live_policy_named(plan.policy)
    if batching is not None:
        policy = replace(policy, batching=batcher_named(batching))
    return Deployment(
        plan=plan,
        catalog=catalog,
        profiles=profiles,
        devices=[here[device] for device in plan.devices],
        models={(f.name, v.name): _model(place, f, v) for f in catalog.families for v in f.variants},
        policy=policy if replan else replace(policy, replanning=None),
        replan=planner_for(place, policy, plan.headroom, profiles=profiles, rules=plan.rules),
    )


def _require_here(measured: "Device", here: "Mapping[str, Device]") -> None:
    """The device of a profile is on this machine, and is the one that was measured."""
    hint = "run `proteus profile` and `proteus plan` here; plans for a `--fleet` are for simulation"
    found = here.get(measured.id)
    if found is None:
        raise DeviceUnavailable(
            f"The plan uses `{measured.id}`, which is not on this machine (it has {', '.join(here)}).", hint=hint
        )
    if (found.type, found.name) != (measured.type, measured.name):
        raise DeviceUnavailable(
            f"The profile of `{measured.id}` is of a {measured.type}, {measured.name}; here it is a {found.type}, "
            f"{found.name}.",
            hint=hint,
        )


def _model(place: "Workspace", family: "Family", variant: "Variant") -> Path:
    if variant.onnx is None:
        raise ArtefactError(
            f"The catalog names no ONNX file of `{family.name}/{variant.name}`, so there is nothing to run.",
            hint="set `onnx` in engines/catalog.toml, then `proteus profile` and `proteus plan` again",
        )
    path = place.model_path(variant.onnx)
    if not path.is_file():
        raise ArtefactError(f"No model `{path}`.", hint="the catalog names it; put the ONNX file there")
    return path
