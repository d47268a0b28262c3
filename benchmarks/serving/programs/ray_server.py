"""Ray Serve: one deployment per family, batched by `serve.batch`."""

import asyncio
import os
import signal
from typing import Any

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.serving.programs.models import DELAY_S, MAX_BATCH, Floats, Model, families, instances, port


class Classifier:
    def __init__(self, family: str) -> None:
        self.model = Model(family)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=DELAY_S)  # type: ignore[untyped-decorator]
    async def classify(self, rows: list[Floats]) -> list[Floats]:
        return list(self.model(np.stack(rows)))

    async def __call__(self, request: Request) -> Any:
        if request.headers.get("content-type") == "application/json":
            scores = await self.classify(self.model.row((await request.json())["x"]))
            return {"y": scores.tolist()}
        scores = await self.classify(self.model.raw_row(await request.body()))
        return Response(scores.tobytes(), media_type="application/octet-stream")


async def _until_stopped() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def main() -> None:
    ray.init(
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=os.environ["BENCH_DIRECTORY"],
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port()})
    deployment = serve.deployment(
        Classifier,
        num_replicas=instances(),
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},  # or fewer replicas than there are families start on two cores
    )
    for family in families():
        bound = deployment.options(name=family).bind(family)
        serve.run(bound, name=family, route_prefix=f"/{family}")
    asyncio.run(_until_stopped())
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
