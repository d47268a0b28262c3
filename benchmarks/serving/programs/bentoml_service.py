"""BentoML: one service with a batchable API per family. How long a batch waits is its own, adaptive choice."""

import bentoml
import numpy as np

from benchmarks.serving.programs.models import MAX_BATCH, Floats, Model, instances

LONGEST_MS = 10_000  # requests that would take longer are refused


@bentoml.service(workers=instances(), traffic={"timeout": 30})
class Classifiers:
    def __init__(self) -> None:
        self.models = {family: Model(family) for family in ("tiny", "cnn", "image")}

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=LONGEST_MS)  # type: ignore[untyped-decorator]
    def tiny(self, x: np.ndarray) -> np.ndarray:
        return self._scores("tiny", x)

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=LONGEST_MS)  # type: ignore[untyped-decorator]
    def cnn(self, x: np.ndarray) -> np.ndarray:
        return self._scores("cnn", x)

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=LONGEST_MS)  # type: ignore[untyped-decorator]
    def image(self, x: np.ndarray) -> np.ndarray:
        return self._scores("image", x)

    def _scores(self, family: str, rows: np.ndarray) -> Floats:
        model = self.models[family]
        return model(rows.astype(np.float32).reshape(-1, *model.shape))
