"""Descriptions of servers and models in the protocol and Triton's extensions, as Structs.

REST sends them as JSON and makes its OpenAPI schemas from them; gRPC copies them into its messages. Fields have the
names of the protocol's JSON objects and of Triton's protobuf messages. Source: the Open Inference Protocol's
"HTTP/REST" document; Triton's documents on its model configuration, statistics and model repository extensions.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from proteus_cli.domain.base import Count, Fraction
from proteus_cli.serving.oip.tensors import DATATYPES, STRINGS

Datatype = Annotated[str, Meta(extra_json_schema={"enum": list(DATATYPES)})]
SentDatatype = Annotated[str, Meta(extra_json_schema={"enum": [*DATATYPES, STRINGS]})]
TritonDatatype = Annotated[str, Meta(extra_json_schema={"enum": [f"TYPE_{name}" for name in DATATYPES]})]
Size = Annotated[int, Meta(ge=-1)]


# --- servers and models


class ServerLive(Struct, frozen=True):
    """Whether the server runs."""

    live: bool


class ServerReady(Struct, frozen=True):
    """Whether the server takes requests."""

    ready: bool


class ModelReady(Struct, frozen=True):
    """Whether a model takes requests: the server is ready, hosts a variant of it, and it is not unloaded."""

    name: str
    ready: bool


class ServerMetadata(Struct, frozen=True):
    """The server's name and version, and the extensions of the protocol that it offers."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(Struct, frozen=True):
    """An input or output. The first size is the number of rows; -1 stands for sizes that vary."""

    name: str
    datatype: Datatype
    shape: list[Size]


class ModelMetadata(Struct, frozen=True):
    """The metadata of a model: its inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


# --- configuration


class ConfigTensor(Struct, frozen=True):
    """An input or output, without the axis of the batch; -1 stands for sizes that vary."""

    name: str
    data_type: TritonDatatype
    dims: list[Size]


class ModelInstance(Struct, frozen=True):
    """A device that hosts a variant of the model now."""

    name: str
    kind: Literal["KIND_CPU", "KIND_GPU"]
    count: Count
    gpus: list[Count]


class ConfigParameter(Struct, frozen=True):
    """The value of a parameter, as text."""

    string_value: str


class ModelConfig(Struct, frozen=True):
    """A model's configuration: Triton's `ModelConfig` in JSON."""

    name: str
    platform: str
    backend: str
    version_policy: Mapping[str, Any]
    max_batch_size: Annotated[
        Count,
        Meta(
            description="The most rows of a request that a variant answers within the SLO, "
            "whether it is hosted now or another plan could host it."
        ),
    ]
    input: list[ConfigTensor]
    output: list[ConfigTensor]
    instance_group: list[ModelInstance]
    dynamic_batching: Mapping[str, bool]
    model_transaction_policy: Mapping[str, bool]
    parameters: Annotated[
        Mapping[str, ConfigParameter],
        Meta(
            description="`slo_us`: the family's SLO in microseconds; `emulated`: `true` where devices are emulated; "
            "`signature`: `stub` where inputs and outputs are made up."
        ),
    ]


# --- statistics


class StatisticDuration(Struct, frozen=True):
    """How often something happened, and the nanoseconds it took in all."""

    count: Count
    ns: Count


class InferStatistics(Struct, frozen=True):
    """Requests by how they ended, and the parts of the served ones."""

    success: StatisticDuration
    fail: StatisticDuration
    queue: StatisticDuration
    compute_input: StatisticDuration
    compute_infer: StatisticDuration
    compute_output: StatisticDuration


class InferBatchStatistics(Struct, frozen=True):
    """Batches of one size."""

    batch_size: Count
    compute_input: StatisticDuration
    compute_infer: StatisticDuration
    compute_output: StatisticDuration


class ModelStatistics(Struct, frozen=True):
    """The statistics of a model since the server started."""

    name: str
    version: str
    last_inference: Annotated[Count, Meta(description="Milliseconds since 1970; 0: none yet.")]
    inference_count: Annotated[Count, Meta(description="Rows.")]
    execution_count: Annotated[Count, Meta(description="Batches.")]
    inference_stats: InferStatistics
    batch_stats: list[InferBatchStatistics]


class Statistics(Struct, frozen=True):
    """The statistics of one model, or of all."""

    model_stats: list[ModelStatistics]


# --- repository


class HostedVariant(Struct, frozen=True):
    """A variant that answers for a model now, its accuracy, and its device."""

    variant: str
    accuracy: Fraction
    device: str


class ModelIndex(Struct, frozen=True):
    """A model of the repository. ``reason`` says why it is unavailable."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str
    variants: list[HostedVariant]
