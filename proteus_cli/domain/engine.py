"""Engines that were built: what from, and with what result."""

from proteus_cli.domain.base import FORMAT, LARGEST_BATCH, MadeBy, Value, is_amount, is_count, require

_HEX_DIGITS = 64
_MODEL = "another model"


class Gpu(Value, frozen=True):
    """Properties of a GPU that an engine must fit: ``compute_capability`` like ``8.6``, ``driver`` like ``570.86``.

    ``multiprocessors`` tells slices of one GPU apart, which have the same name.
    """

    name: str
    compute_capability: str
    multiprocessors: int
    driver: str

    def __post_init__(self) -> None:
        require(bool(self.name), "a GPU needs a name")
        require(is_count(self.multiprocessors, 1), f"multiprocessors of `{self.name}` must be at least 1")


class BuildOptions(Value, frozen=True):
    """How an engine is built: for batches from ``min_batch`` to ``max_batch``, best at ``opt_batch``.

    ``workspace_bytes`` is the most that a layer may use beside weights and activations. A ``hardware_compatible``
    engine also runs on other GPUs from Ampere on, perhaps more slowly.
    """

    opt_batch: int
    max_batch: int
    min_batch: int = 1
    workspace_bytes: int = 2**30
    hardware_compatible: bool = False

    def __post_init__(self) -> None:
        rising = 1 <= self.min_batch <= self.opt_batch <= self.max_batch <= LARGEST_BATCH
        batches = f"{self.min_batch}, {self.opt_batch}, {self.max_batch}"
        require(rising, f"batches must rise from 1, to {LARGEST_BATCH:,} at most: {batches}")
        require(is_count(self.workspace_bytes, 1), "workspace_bytes must be above zero")


class EngineKey(Value, frozen=True):
    """The inputs of an engine. If one of them changes, the engine is built anew.

    ``model_digest`` covers the ONNX file and its external data; ``tensorrt`` is the version of the builder.
    """

    model_digest: str
    tensorrt: str
    gpu: Gpu
    options: BuildOptions

    def __post_init__(self) -> None:
        require(_is_digest(self.model_digest), "model_digest must be a SHA-256 in hex")
        require(bool(self.tensorrt), "the key needs the version of TensorRT")

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
    device_type: str
    family: str
    variant: str
    key: EngineKey
    plan_digest: str
    plan_bytes: int
    build_s: float

    def __post_init__(self) -> None:
        require(self.format == FORMAT, f"`format` is {self.format}; this version reads {FORMAT}")
        require(bool(self.device_type), "device_type must not be empty")
        require(_is_digest(self.plan_digest), "plan_digest must be a SHA-256 in hex")
        require(is_count(self.plan_bytes, 1), "plan_bytes must be above zero")
        require(is_amount(self.build_s), "build_s must not be negative")


def _is_digest(text: str) -> bool:
    return len(text) == _HEX_DIGITS and all(digit in "0123456789abcdef" for digit in text)
