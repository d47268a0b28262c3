"""Engines that were built: what from, and with what result."""

from proteus_cli.domain.base import (
    LARGEST_BATCH,
    Amount,
    Digest,
    MadeBy,
    PositiveCount,
    Text,
    Value,
    require,
    require_format,
)

_MODEL = "another model"


class Gpu(Value, frozen=True):
    """Properties of a GPU that an engine must fit: ``compute_capability`` like ``8.6``, ``driver`` like ``570.86``.

    ``multiprocessors`` tells slices of one GPU apart, which have the same name.
    """

    name: Text
    compute_capability: str
    multiprocessors: PositiveCount
    driver: str


class BuildOptions(Value, frozen=True):
    """How an engine is built: for batches from ``min_batch`` to ``max_batch``, best at ``opt_batch``.

    ``workspace_bytes`` is the most that a layer may use beside weights and activations. A ``hardware_compatible``
    engine also runs on other GPUs from Ampere on, perhaps more slowly.
    """

    opt_batch: int
    max_batch: int
    min_batch: int = 1
    workspace_bytes: PositiveCount = 2**30
    hardware_compatible: bool = False

    def __post_init__(self) -> None:
        rising = 1 <= self.min_batch <= self.opt_batch <= self.max_batch <= LARGEST_BATCH
        batches = f"{self.min_batch}, {self.opt_batch}, {self.max_batch}"
        require(rising, f"batches must rise from 1, to {LARGEST_BATCH:,} at most: {batches}")


class EngineKey(Value, frozen=True):
    """The inputs of an engine. If one of them changes, the engine is built anew.

    ``model_digest`` covers the ONNX file and its external data; ``tensorrt`` is the version of the builder.
    """

    model_digest: Digest
    tensorrt: Text
    gpu: Gpu
    options: BuildOptions

    def changed_from(self, other: "EngineKey") -> tuple[str, ...]:
        """The differences from an older key, in words like ``driver 550.54 → 570.86``; empty if both are equal."""
        before = other.facts()
        changes = ((what, before[what], now) for what, now in self.facts().items() if now != before[what])
        return tuple(what if what == _MODEL else f"{what} {old} → {new}" for what, old, new in changes)

    def facts(self) -> dict[str, str]:
        """All parts of the key, by what people call them."""
        return {
            _MODEL: self.model_digest,
            "TensorRT": self.tensorrt,
            "GPU": self.gpu.name,
            "compute capability": self.gpu.compute_capability,
            "multiprocessors": str(self.gpu.multiprocessors),
            "driver": self.gpu.driver,
            "smallest batch": str(self.options.min_batch),
            "best batch": str(self.options.opt_batch),
            "largest batch": str(self.options.max_batch),
            "workspace": f"{self.options.workspace_bytes:,} bytes",
            "hardware compatibility": "on" if self.options.hardware_compatible else "off",
        }


class BuiltEngine(Value, frozen=True):
    """The record beside a TensorRT plan: whose it is, what it was built from, and the SHA-256 of its bytes.

    ``build_s``: seconds that building took.
    """

    format: int
    made_by: MadeBy
    device_type: Text
    family: str
    variant: str
    key: EngineKey
    plan_digest: Digest
    plan_bytes: PositiveCount
    build_s: Amount

    def __post_init__(self) -> None:
        require_format(self.format)
