"""mosec: its Rust server before worker processes; JSON by msgspec, or raw bytes."""

import os
from typing import Any

import msgspec
import numpy as np
from mosec import Runtime, Server, Worker

from benchmarks.serving.programs.models import DELAY_S, MAX_BATCH, Floats, Model, routes


class Query(msgspec.Struct):
    x: list[float]


class Classifier(Worker):  # type: ignore[misc]
    """Runs one family, ``$BENCH_FAMILY``, which `Runtime` sets for each worker."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(os.environ["BENCH_FAMILY"])

    def forward(self, data: list[Floats]) -> list[Floats]:
        return list(self.model(np.stack(data)))


class JsonClassifier(Classifier):
    decoder = msgspec.json.Decoder(Query)

    def deserialize(self, data: bytes) -> Floats:
        return self.model.row(self.decoder.decode(data).x)

    def serialize(self, data: Floats) -> bytes:
        return msgspec.json.encode({"y": data.tolist()})


class RawClassifier(Classifier):
    resp_mime_type = "application/octet-stream"

    def deserialize(self, data: bytes) -> Floats:
        return self.model.raw_row(data)

    def serialize(self, data: Floats) -> bytes:
        return data.tobytes()


def _runtime(family: str, kind: str) -> Any:
    return Runtime(
        JsonClassifier if kind == "json" else RawClassifier,
        num=1,
        max_batch_size=MAX_BATCH,
        max_wait_time=round(1000 * DELAY_S),
        env=[{"BENCH_FAMILY": family}],
    )


def main() -> None:
    server = Server()
    server.register_runtime({f"/{family}/{kind}": [_runtime(family, kind)] for family, kind in routes()})
    server.run()


if __name__ == "__main__":
    main()
