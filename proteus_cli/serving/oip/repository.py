"""The families of the catalog as models of the protocol: metadata, and Triton's extensions, for REST and gRPC alike."""

import time
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from typing import Any, Literal

from proteus_cli import __version__
from proteus_cli.backends.base import TensorSpec
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import HostedVariant
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import BadRequest, UnknownModel
from proteus_cli.serving.lifecycle import Lifecycle
from proteus_cli.serving.oip import documents
from proteus_cli.serving.oip.tensors import DATATYPE_OF, VERSION
from proteus_cli.serving.requests.counts import RequestCounts
from proteus_cli.serving.requests.families import LEAVING, UNLOADED, Families, ServedFamily

EXTENSIONS = ("classification", "model_configuration", "model_repository", "schedule_policy", "statistics")
"""Extensions of both protocols."""

_MAX_VERSION = 2**63 - 1
_NS_PER_S = 1e9
_US_PER_S = 1e6
_MS_PER_S = 1e3
_KINDS: Mapping[str, Literal["KIND_CPU", "KIND_GPU"]] = {"cpu": "KIND_CPU", "gpu": "KIND_GPU"}
_FAILURES = tuple(outcome for outcome in Outcome if outcome is not Outcome.SERVED)


class ModelRepository:
    """The families as models, whose versions are their variants. All methods that name a model raise `UnknownModel`.

    ``platform`` names the backend; ``stubs`` are families whose signature is made up; ``unix_s`` gives the time of day.
    ``refresh`` has the catalog read and followed; None: what is served stays as it is.
    """

    def __init__(
        self,
        families: Families,
        controller: Controller,
        lifecycle: Lifecycle,
        counts: RequestCounts,
        clock: Callable[[], float],
        *,
        platform: str,
        profiles: Mapping[str, Profile],
        stubs: Container[str] = (),
        is_emulated: bool = False,
        unix_s: Callable[[], float] = time.time,
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._families, self._controller, self._lifecycle, self._counts = families, controller, lifecycle, counts
        self._platform, self._stubs, self._is_emulated = platform, stubs, is_emulated
        self._epoch_s = unix_s() - clock()
        self._profiles, self._refresh = profiles, refresh

    def require(self, name: str, version: str = "") -> str:
        """The family of that name, which has that version; an empty one stands for any variant."""
        self._families.require(name).asked_version(version)
        return name

    @property
    def is_server_ready(self) -> bool:
        """Whether the server takes requests."""
        return self._lifecycle.is_ready

    def is_ready(self, family: str, version: str = "") -> bool:
        """Whether the family takes requests now, for that version where one is named."""
        return self._families.why_unavailable(family, self._families.require(family).asked_version(version)) is None

    def metadata(self, family: str) -> documents.ModelMetadata:
        """The tensors and versions of a family. Raises `UnknownModel`."""
        served = self._families.require(family)
        signature = served.signature
        return documents.ModelMetadata(
            name=family,
            versions=[VERSION, *served.asked_versions],
            platform=self._platform,
            inputs=[_tensor_metadata(spec) for spec in signature.inputs],
            outputs=[_tensor_metadata(spec) for spec in signature.outputs],
        )

    def config(self, family: str, version: str = "") -> documents.ModelConfig:
        """A family's configuration, with an instance for each device that hosts it now, or that version of it.

        Its largest batch counts all variants that plans could place: clients read it once, and plans change.
        """
        served, controller = self._families.require(family), self._controller
        asked, placeable = served.asked_version(version), controller.placeable.of(family)
        state = controller.families[family]
        hosting = state.hosts
        could_host = [] if placeable is None else placeable.hosts(placeable.everyone)
        if asked is not None:
            could_host = [host for host in could_host if host.variant in asked.variants]
            hosting = tuple(host for host in state.all_hosts if host.variant in asked.variants)
        numbers = sorted(_numbers((VERSION, *served.asked_versions)))
        return documents.ModelConfig(
            name=family,
            platform=self._platform,
            backend=self._platform,
            version_policy={"specific": {"versions": numbers}},
            max_batch_size=controller.dispatch.max_rows(could_host or hosting, served.slo_s, served.max_rows),
            input=[_config_tensor(spec) for spec in served.signature.inputs],
            output=[_config_tensor(spec) for spec in served.signature.outputs],
            instance_group=[self._instance(hosted) for hosted in hosting],
            dynamic_batching={"preserve_ordering": False},
            model_transaction_policy={"decoupled": False},
            parameters=self._parameters(served),
        )

    def statistics(self, family: str | None = None, version: str = "") -> documents.Statistics:
        """The statistics of a family, or of all, since the start. Raises `UnknownModel`, also of a version alone."""
        if family is not None and self._families.require(family).asked_version(version) is not None:
            raise UnknownModel(f"the statistics of `{family}` are those of all its versions: leave `{version}` out")
        families = self._families.by_name if family is None else (family,)
        return documents.Statistics(model_stats=[self._statistics(name) for name in families])

    def index(self, *, only_ready: bool = False) -> list[documents.ModelIndex]:
        """All families, whether they take requests, and which variants would answer them now."""
        entries = (self._entry(family) for family in self._families.by_name)
        return [entry for entry in entries if not only_ready or entry.state == "READY"]

    async def load_anew(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        """As `load`, once the catalog was read and followed, where it may be. Raises what that raises, too."""
        _require_as_in_catalog(name, parameters)
        if self._refresh is not None:
            await self._refresh()
        self.load(name)

    def load(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Let a family take requests again. Raises `BadRequest` for an unknown name, or files of another model."""
        _require_as_in_catalog(name, parameters)
        self._require_known(name, "load")
        self._families.by_name[name].why_out = ""

    def unload(self, name: str) -> None:
        """Let a family take no more requests; those in flight are answered. Raises `BadRequest` for an unknown name.

        Its engines stay loaded: the planner decides what devices host.
        """
        self._require_known(name, "unload")
        self._families.by_name[name].why_out = UNLOADED

    def _require_known(self, name: str, action: str) -> None:
        families = self._families.by_name
        if name not in families or families[name].why_out == LEAVING:
            known = ", ".join(each for each, of in families.items() if of.why_out != LEAVING)
            raise BadRequest(f"failed to {action} '{name}', no such model in the repository; there are: {known}")

    def _entry(self, family: str) -> documents.ModelIndex:
        reason = self._families.why_unavailable(family)
        return documents.ModelIndex(
            name=family,
            version=VERSION,
            state="READY" if reason is None else "UNAVAILABLE",
            reason=reason or "",
            variants=[
                documents.HostedVariant(variant=hosted.variant, accuracy=hosted.accuracy, device=hosted.device)
                for hosted in self._controller.families[family].hosts
            ],
        )

    def _parameters(self, family: ServedFamily) -> dict[str, documents.ConfigParameter]:
        found = {"slo_us": str(round(family.slo_s * _US_PER_S))}
        if self._is_emulated:
            found["emulated"] = "true"
        if family.name in self._stubs:
            found["signature"] = "stub"
        return {name: documents.ConfigParameter(string_value=text) for name, text in found.items()}

    def _instance(self, hosted: HostedVariant) -> documents.ModelInstance:
        device = self._profiles[hosted.device].device
        is_local_gpu = device.kind == "gpu" and not device.host and not self._is_emulated
        gpus = [int(device.id.removeprefix("gpu"))] if is_local_gpu else []
        return documents.ModelInstance(
            name=f"{hosted.variant} on {device.id}", kind=_KINDS[device.kind], count=1, gpus=gpus
        )

    def _statistics(self, family: str) -> documents.ModelStatistics:
        counts = self._counts.by_family[family]
        served = counts.of_outcome(Outcome.SERVED)
        failed = sum(counts.of_outcome(outcome) for outcome in _FAILURES)
        last_s = counts.last_s
        return documents.ModelStatistics(
            name=family,
            version=VERSION,
            last_inference=0 if last_s is None else round((self._epoch_s + last_s) * _MS_PER_S),
            inference_count=counts.rows,
            execution_count=sum(of.batches for of in counts.executions.values()),
            inference_stats=documents.InferStatistics(
                success=_duration(served, counts.request_s),
                fail=_duration(failed, counts.failed_s),
                queue=_duration(served, counts.queue_s),
                **_compute(served, counts.compute_s, counts.decoding_s),
            ),
            batch_stats=[
                documents.InferBatchStatistics(batch_size=rows, **_compute(of.batches, of.compute_s))
                for rows, of in sorted(counts.executions.items())
            ],
        )


def _require_as_in_catalog(name: str, parameters: Mapping[str, Any] | None) -> None:
    if any(key == "config" or key.startswith("file:") for key in parameters or {}):
        raise BadRequest(f"failed to load '{name}', models are what the catalog says: no config or files are taken")


def server_metadata(*more_extensions: str) -> documents.ServerMetadata:
    """This server, with the extensions of one protocol before the common ones."""
    return documents.ServerMetadata(name="proteus", version=__version__, extensions=[*more_extensions, *EXTENSIONS])


def _tensor_metadata(spec: TensorSpec) -> documents.TensorMetadata:
    return documents.TensorMetadata(name=spec.name, datatype=DATATYPE_OF[spec.dtype], shape=[-1, *_sizes(spec)])


def _config_tensor(spec: TensorSpec) -> documents.ConfigTensor:
    return documents.ConfigTensor(name=spec.name, data_type=f"TYPE_{DATATYPE_OF[spec.dtype]}", dims=_sizes(spec))


def _numbers(versions: Iterable[str]) -> set[int]:
    """The versions that are numbers as Triton's clients know them."""
    named = (name for name in versions if name.isdecimal() and len(name) <= len(str(_MAX_VERSION)))
    return {number for number in map(int, named) if number <= _MAX_VERSION}


def _sizes(spec: TensorSpec) -> list[int]:
    """The sizes of a row."""
    return [-1 if size is None else size for size in spec.shape]


def _compute(count: int, total_s: float, decoding_s: float = 0.0) -> dict[str, documents.StatisticDuration]:
    """A batch is timed as a whole: gathering its inputs is part of the inference, its outputs are not copied."""
    of_input, infer, of_output = (_duration(count, each_s) for each_s in (decoding_s, total_s, 0.0))
    return {"compute_input": of_input, "compute_infer": infer, "compute_output": of_output}


def _duration(count: int, total_s: float) -> documents.StatisticDuration:
    return documents.StatisticDuration(count=count, ns=round(total_s * _NS_PER_S))
