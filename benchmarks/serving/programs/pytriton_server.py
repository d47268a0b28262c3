"""PyTriton: Triton as its Python front end sets it up."""

import os
from collections.abc import Callable

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.serving.programs.models import DELAY_S, MAX_BATCH, SCORES, Floats, Model, families, instances, port


def _classify(model: Model) -> Callable[[Floats], dict[str, Floats]]:
    @batch  # type: ignore[untyped-decorator]
    def classify(x: Floats) -> dict[str, Floats]:
        return {"y": model(x)}

    return classify  # type: ignore[no-any-return]


def main() -> None:
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=port(),
        grpc_address="127.0.0.1",
        grpc_port=int(os.environ["BENCH_GRPC_PORT"]),
        metrics_address="127.0.0.1",
        metrics_port=int(os.environ["BENCH_METRICS_PORT"]),
    )
    with Triton(config=config) as triton:
        for family in families():
            models = [Model(family) for _ in range(instances())]
            triton.bind(
                model_name=family,
                infer_func=[_classify(model) for model in models],
                inputs=[Tensor(name="x", dtype=np.float32, shape=models[0].shape)],
                outputs=[Tensor(name="y", dtype=np.float32, shape=(SCORES,))],
                config=ModelConfig(
                    max_batch_size=MAX_BATCH,
                    batcher=DynamicBatcher(max_queue_delay_microseconds=round(1e6 * DELAY_S)),
                ),
            )
        triton.serve()


if __name__ == "__main__":
    main()
