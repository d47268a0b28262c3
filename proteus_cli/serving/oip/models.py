"""What Triton's extensions of the protocol tell about models, and do with them, for REST and gRPC alike.

Documents have the names of Triton's protobuf messages, of which they are the JSON form; nothing is in them that this
server doesn't have. Source: Triton's documents on its model configuration, statistics, and model repository extensions.
"""

import time
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

from proteus_cli.backends.base import TensorSpec
from proteus_cli.control.decision import Hosted
from proteus_cli.domain.device import Device
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import BadRequest
from proteus_cli.serving.oip.tensors import DATATYPE_OF, VERSION
from proteus_cli.serving.requests.counts import Executions
from proteus_cli.serving.requests.dataplane import DataPlane

EXTENSIONS = ("model_configuration", "model_repository", "schedule_policy", "statistics")
"""What both protocols offer beyond the Open Inference Protocol."""

_NS_PER_S = 1e9
_US_PER_S = 1e6
_KINDS = {"cpu": "KIND_CPU", "gpu": "KIND_GPU"}
_FAILURES = tuple(outcome for outcome in Outcome if outcome is not Outcome.SERVED)

Document = dict[str, Any]


class ModelRepository:
    """The families of the catalog as Triton would see them: each a model of one version.

    ``platform`` names the backend; ``stubs`` are families whose signature is made up; ``unix_s`` tells the time of day.
    """

    def __init__(
        self,
        plane: DataPlane,
        *,
        platform: str,
        devices: Iterable[Device],
        stubs: Container[str] = (),
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._plane, self._platform, self._stubs = plane, platform, stubs
        self._epoch_s = unix_s() - plane.clock()
        self._devices = {device.id: device for device in devices}

    def config(self, family: str) -> Document:
        """A family's configuration, with an instance for each device that hosts it now. Raises `UnknownModel`."""
        signature = self._plane.require_family(family)
        return {
            "name": family,
            "platform": self._platform,
            "backend": self._platform,
            "version_policy": {"specific": {"versions": [int(VERSION)]}},
            "max_batch_size": self._plane.max_rows[family],
            "input": [_tensor(spec) for spec in signature.inputs],
            "output": [_tensor(spec) for spec in signature.outputs],
            "instance_group": [self._instance(hosted) for hosted in self._plane.controller.hosting(family)],
            "dynamic_batching": {"preserve_ordering": False},
            "model_transaction_policy": {"decoupled": False},
            "parameters": {name: {"string_value": text} for name, text in self._parameters(family).items()},
        }

    def statistics(self, family: str | None = None) -> list[Document]:
        """What was counted of a family, or of all, since the start. Raises `UnknownModel`."""
        if family is not None:
            self._plane.require_family(family)
        return [self._statistics(name) for name in ([family] if family is not None else self._plane.signatures)]

    def index(self, *, only_ready: bool = False) -> list[Document]:
        """All families, whether they take requests, and which variants would answer them now."""
        entries = (self._entry(family) for family in self._plane.signatures)
        return [entry for entry in entries if not only_ready or entry["state"] == "READY"]

    def load(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Let a family take requests again. Raises `BadRequest` where there is none, or it shall be another model."""
        self._require(name, "load")
        if any(key == "config" or key.startswith("file:") for key in parameters or {}):
            raise BadRequest(f"failed to load '{name}', models are what the catalog says: no config or files are taken")
        self._plane.unloaded.discard(name)

    def unload(self, name: str) -> None:
        """Let a family take no more requests; those inside are answered. Raises `BadRequest` where there is none.

        Its engines stay where the plan has them: what is loaded is the planner's to decide.
        """
        self._require(name, "unload")
        self._plane.unloaded.add(name)

    def _require(self, name: str, aim: str) -> None:
        if name not in self._plane.signatures:
            known = ", ".join(self._plane.signatures)
            raise BadRequest(f"failed to {aim} '{name}', no such model in the repository; there are: {known}")

    def _entry(self, family: str) -> Document:
        reason = self._plane.why_unavailable(family)
        return {
            "name": family,
            "version": VERSION,
            "state": "READY" if reason is None else "UNAVAILABLE",
            "reason": reason or "",
            "variants": [
                {"variant": hosted.variant, "accuracy": hosted.accuracy, "device": hosted.device}
                for hosted in self._plane.controller.hosting(family)
            ],
        }

    def _parameters(self, family: str) -> dict[str, str]:
        found = {"slo_us": str(round(self._plane.slo_s[family] * _US_PER_S))}
        if self._plane.is_emulated:
            found["emulated"] = "true"
        if family in self._stubs:
            found["signature"] = "stub"
        return found

    def _instance(self, hosted: Hosted) -> Document:
        device = self._devices[hosted.device]
        is_here = device.kind == "gpu" and not self._plane.is_emulated
        gpus = [int(device.id.removeprefix("gpu"))] if is_here else []
        return {"name": f"{hosted.variant} on {device.id}", "kind": _KINDS[device.kind], "count": 1, "gpus": gpus}

    def _statistics(self, family: str) -> Document:
        counts = self._plane.counts[family]
        served = counts.of_outcome(Outcome.SERVED)
        return {
            "name": family,
            "version": VERSION,
            "last_inference": 0 if counts.last_s is None else round((self._epoch_s + counts.last_s) * 1e3),  # ms
            "inference_count": counts.rows,
            "execution_count": sum(of.batches for of in counts.executions.values()),
            "inference_stats": {
                "success": _duration(served, counts.request_s),
                "fail": _duration(sum(counts.of_outcome(outcome) for outcome in _FAILURES), counts.failed_s),
                "queue": _duration(served, counts.queue_s),
                **_compute(served, counts.compute_s),
            },
            "batch_stats": [_batches(rows, of) for rows, of in sorted(counts.executions.items())],
        }


def _tensor(spec: TensorSpec) -> Document:
    """Without the axis of the batch; -1 stands for sizes that vary."""
    dims = [-1 if size is None else size for size in spec.shape]
    return {"name": spec.name, "data_type": f"TYPE_{DATATYPE_OF[spec.dtype]}", "dims": dims}


def _batches(rows: int, executions: Executions) -> Document:
    return {"batch_size": rows, **_compute(executions.batches, executions.compute_s)}


def _compute(count: int, took_s: float) -> Document:
    """A batch is timed as a whole: putting its inputs together belongs to the inference, its outputs aren't copied."""
    return {
        "compute_input": _duration(count, 0.0),
        "compute_infer": _duration(count, took_s),
        "compute_output": _duration(count, 0.0),
    }


def _duration(count: int, took_s: float) -> Document:
    return {"count": count, "ns": round(took_s * _NS_PER_S)}
