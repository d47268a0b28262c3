"""Target `grpc`: calls of all methods, with messages whose fields are mutated; streams, metadata, compression."""

import gzip
from collections.abc import Iterator, Mapping
from functools import partial
from random import Random

from fuzzing.in_process.http2_messages import INFER, SERVICE, STREAM_INFER, Calls, infer_message
from fuzzing.in_process.server import MAX_ROWS
from fuzzing.mutations.frames import FrameMutations
from fuzzing.mutations.messages import mutated_messages
from fuzzing.targets.http2_frames import GrpcTarget, conversation

from proteus_cli.serving.grpc.messages import message

_FRAMES_FRAC = 0.15  # mutations of the frames around the messages
_METHODS = (
    "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics",
    "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload",
)  # fmt: skip


class GrpcCalls(GrpcTarget):
    def __init__(self) -> None:
        super().__init__()
        self._mutate_frames = FrameMutations([*self.seeds().values()])

    def seeds(self) -> Mapping[str, bytes]:
        small, options = infer_message("small"), infer_message("small", timeout=10_000_000, priority=1)
        packed = {"grpc-encoding": "gzip"}
        named = message("inference.ModelMetadataRequest")(name="kinds", version="1").SerializeToString()
        return {
            "raw": conversation(lambda calls: [calls.call(INFER, infer_message("kinds", 3))]),
            "typed": conversation(lambda calls: [calls.call(INFER, infer_message("small", MAX_ROWS, is_raw=False))]),
            "options": conversation(lambda calls: [calls.call(INFER, options, metadata={"grpc-timeout": "5S"})]),
            "large": conversation(lambda calls: [calls.call(INFER, infer_message("large", 4))]),
            "large-typed": conversation(lambda calls: [calls.call(INFER, infer_message("large", 4, is_raw=False))]),
            "stream": conversation(lambda calls: [calls.call(STREAM_INFER, small, options, infer_message("kinds"))]),
            "packed": conversation(
                lambda calls: [calls.call(INFER, gzip.compress(small, mtime=0), metadata=packed, is_packed=True)]
            ),
            "health": conversation(lambda calls: [calls.call("/grpc.health.v1.Health/Check", b"")]),
            **{name: conversation(partial(_one_call, SERVICE + name, named)) for name in _METHODS},
        }

    def mutate(self, content: bytes, rng: Random) -> bytes:
        mutate = self._mutate_frames if rng.random() < _FRAMES_FRAC else mutated_messages
        return mutate(content, rng)


def _one_call(path: str, message: bytes, calls: Calls) -> Iterator[bytes]:
    yield calls.call(path, message)
