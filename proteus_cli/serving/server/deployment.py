"""What a server is started with: where to listen, and what to serve."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from proteus_cli.control.controller import MAX_UNAVAILABLE_FRAC
from proteus_cli.control.policies import Policy
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.catalog_changes import Digests
from proteus_cli.domain.device import Device
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import Origin
from proteus_cli.domain.profile import Profile
from proteus_cli.serving.adaptation.catalog_reading import CatalogSource
from proteus_cli.serving.adaptation.conditions import KeptConditions
from proteus_cli.serving.adaptation.joining import ProfileSource
from proteus_cli.serving.adaptation.plan_inputs import PlanSource
from proteus_cli.serving.adaptation.plan_journal import JournalSettings
from proteus_cli.serving.adaptation.rollout_requests import VersionSource
from proteus_cli.serving.adaptation.shifts import References
from proteus_cli.serving.devices.remote.channel.address import HostList
from proteus_cli.serving.requests.samples.writer import SampleSettings
from proteus_cli.serving.transport.tls import ServerCertificate
from proteus_cli.serving.transport.tokens import Tokens


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where to listen (port 0 picks a free one), limits on clients, and how long draining may take.

    ``grpc_port``: None is no gRPC. ``refuses_non_finite``: requests and answers with NaN or infinity are errors.
    No request waits longer than ``max_timeout_s``, or than its family's SLO where that is longer.
    With a ``certificate``, only TLS is spoken. With ``tokens``, all requests need one but health checks and those for
    the files of the page. Without, HTTP requests must name this machine by an address, or one of ``allowed_hosts``.
    Traces go to the URL ``otlp``, of ``otlp_sample`` (a fraction) of the requests that bring no decision about it.
    Answers to requests with an id are kept for ``keep_answers_s``, for feedback; 0: none are. Some requests are
    captured as ``samples`` say.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    max_body_bytes: int = 64 * 2**20
    max_connections: int = 4096
    drain_timeout_s: float = 10.0
    refuses_non_finite: bool = False
    max_timeout_s: float = 60.0
    certificate: ServerCertificate | None = None
    tokens: Tokens | None = None
    allowed_hosts: tuple[str, ...] = ()
    otlp: str | None = None
    otlp_sample: float = 0.01
    keep_answers_s: float = 0.0
    samples: SampleSettings | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """What to serve: a plan and why it is the first, and what changes of plan may use.

    ``models`` are ONNX files by variant; where devices are ``emulated``, only of some variants, and none is run.
    ``labels`` are names of classes, by family; only of some families.
    Devices other than GPUs run in threads of the server, or ``in_processes`` of their own. Plans come from ``source``;
    the ``journal`` records them, unless it is None. Engines for GPUs are kept in ``built``. ``replanning`` is the
    option of that name; a solve takes ``solve_limit_s`` at most. During a plan change, at most
    ``max_unavailable_frac`` of a family's capacity is unavailable. What a profile is wrong in for ``drift_after_s`` is
    re-estimated (0: never), and written to the workspace if the server ``records``. Variants may take ``memory_bytes``
    of each device, standbys included; without, there are no standbys. Devices of a cluster are those of the
    ``hosts``; what is known of those that the plan does not know, ``newcomers`` say. ``digests`` are those of the
    models; the catalog is read anew from ``catalog_source``, also where its files change if the server
    ``watches_catalog``. None: it stays as it is. New versions of models come from ``version_source``. Rows are compared
    with ``references``; None: with nothing. Where it ``tunes_slots``, devices of several slots use as many as are
    worth it, by what is measured; else all. Live ``conditions`` are those that count from the start.
    """

    plan: Plan
    catalog: Catalog
    profiles: Mapping[str, Profile]
    devices: Sequence[Device]
    models: Mapping[VariantKey, Path]
    policy: Policy
    source: PlanSource
    built: Path
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    emulated: bool = False
    replanning: str = "auto"
    solve_limit_s: float = 2.0
    drift_after_s: float = 60.0
    records: bool = False
    journal: JournalSettings | None = None
    origin: Origin = "start"
    reason: str = "the plan that the server was started with"
    in_processes: bool = False
    max_unavailable_frac: float = MAX_UNAVAILABLE_FRAC
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    hosts: HostList | None = None
    newcomers: ProfileSource | None = None
    catalog_source: CatalogSource | None = None
    version_source: VersionSource | None = None
    digests: Digests = field(default_factory=dict)
    watches_catalog: bool = False
    references: References | None = None
    tunes_slots: bool = True
    conditions: KeptConditions = field(default_factory=lambda: KeptConditions(None))

    @property
    def local_devices(self) -> Sequence[Device]:
        """The devices of this machine."""
        return [device for device in self.devices if not device.host]

    @property
    def has_standbys(self) -> bool:
        """Where plans change, variants may stand by."""
        return self.policy.standbys and self.policy.replanning is not None
