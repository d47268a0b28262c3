"""What a server is told: where to listen, and what to serve."""

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proteus_cli.control.policies import Policy
from proteus_cli.control.rollout import MAX_UNAVAILABLE_FRAC
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.record import Origin
from proteus_cli.serving.adaptation.manual_plans import PlanSource
from proteus_cli.serving.adaptation.plan_journal import PlanJournal
from proteus_cli.serving.adaptation.solver_child import Replanner
from proteus_cli.serving.transport.tokens import Tokens


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where to listen (port 0 picks a free one), limits on clients, and how long draining may take.

    ``grpc_port``: None is no gRPC. ``refuses_non_finite``: requests and answers with NaN or infinity are errors.
    With ``tls``, nothing else is spoken; with ``tokens``, all but health checks and the files of the page need one.
    Traces go to the URL ``otlp``, of ``otlp_sample`` (a fraction) of the requests that bring no decision about it.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    max_body_bytes: int = 64 * 2**20
    max_connections: int = 4096
    drain_timeout_s: float = 10.0
    refuses_non_finite: bool = False
    tls: Callable[[Sequence[str]], ssl.SSLContext] | None = None  # by the protocols that it offers
    tokens: Tokens | None = None
    otlp: str | None = None
    otlp_sample: float = 0.01


@dataclass(frozen=True, slots=True)
class Deployment:
    """What to serve: a plan, and all that changes of plan may bring. ``models`` are ONNX files by engine.

    Where devices are ``emulated``, only those of the models that are there; none is run. Devices other than GPUs run in
    threads of the server, or ``in_processes`` of their own. ``source`` is where plans come from that people apply.
    ``built`` is where engines for GPUs are kept. ``replanning`` is the re-planning as it was asked for; a solve takes
    ``solve_limit_s`` at most. At most ``max_unavailable_frac`` of a family's capacity is away at once while devices
    change what they host. What a profile is wrong in for ``drift_after_s`` is re-estimated (0: never), and written back
    where the server ``records``. ``history`` is None where none is kept. ``origin`` and ``reason`` are those of the
    plan.
    """

    plan: Plan
    catalog: Catalog
    profiles: Mapping[str, Profile]
    devices: Sequence[Device]
    models: Mapping[VariantKey, Path]
    policy: Policy
    replan: Replanner
    source: PlanSource
    built: Path
    emulated: bool = False
    replanning: str = "auto"
    solve_limit_s: float = 2.0
    drift_after_s: float = 60.0
    records: bool = False
    history: PlanJournal | None = None
    origin: Origin = "start"
    reason: str = "the plan that the server was started with"
    in_processes: bool = False
    max_unavailable_frac: float = MAX_UNAVAILABLE_FRAC
