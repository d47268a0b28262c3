"""The content that a server serves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
from proteus_cli.serving.settings import ServeSettings
from proteus_cli.serving.transport.tls import ServerCertificate
from proteus_cli.serving.transport.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Deployment:
    """A plan, the resources to serve it with, the sources of later plans, and the settings.

    ``models`` are ONNX files by variant; emulated devices need few, and run none. ``labels`` are names of classes, for
    some families. Engines for GPUs are kept in ``built``.

    With a ``certificate``, only TLS is spoken. With ``tokens``, all requests need one but health checks and the files
    of the page. Without ``samples``, no request is captured.

    Plans come from ``source``; the ``journal`` records them. A solve takes ``solve_limit_s`` at most. ``origin`` and
    ``reason`` explain the first plan. Variants may take ``memory_bytes`` of each device, standbys included; without,
    there are no standbys. ``hosts`` are the cluster; ``newcomers`` has the profiles of devices that the plan does not
    know. The catalog is read again from ``catalog_source``; ``digests`` has its models' digests. New versions of models
    come from ``version_source``. Rows are compared with ``references``. Live ``conditions`` apply from the start. A
    part that is None is not wanted.
    """

    plan: Plan
    catalog: Catalog
    profiles: Mapping[str, Profile]
    devices: Sequence[Device]
    models: Mapping[VariantKey, Path]
    policy: Policy
    source: PlanSource
    built: Path
    settings: ServeSettings = field(default_factory=ServeSettings)
    certificate: ServerCertificate | None = None
    tokens: Tokens | None = None
    samples: SampleSettings | None = None
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    solve_limit_s: float = 2.0
    journal: JournalSettings | None = None
    origin: Origin = "start"
    reason: str = "the plan that the server was started with"
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    hosts: HostList | None = None
    newcomers: ProfileSource | None = None
    catalog_source: CatalogSource | None = None
    version_source: VersionSource | None = None
    digests: Digests = field(default_factory=dict)
    references: References | None = None
    conditions: KeptConditions = field(default_factory=lambda: KeptConditions(None))

    @property
    def in_processes(self) -> bool:
        """CPUs run batches in processes of their own, not in threads of the server."""
        return self.settings.executor == "process"

    @property
    def replanning(self) -> str:
        """The setting `replan`; ``off`` where the policy never re-plans."""
        return self.settings.replan if self.policy.replanning is not None else "off"

    @property
    def local_devices(self) -> Sequence[Device]:
        """The devices of this machine."""
        return [device for device in self.devices if not device.host]

    @property
    def has_standbys(self) -> bool:
        """Where plans change, variants may stand by."""
        return self.policy.standbys and self.policy.replanning is not None
