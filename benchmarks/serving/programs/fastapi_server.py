"""FastAPI as a first attempt looks: a model per family, called once per request, no batching."""

import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from benchmarks.serving.programs.models import Model, families, port

app = FastAPI()
models = {family: Model(family) for family in families()}


class Query(BaseModel):
    x: list[float]


class Answer(BaseModel):
    y: list[float]


@app.post("/{family}/json")  # type: ignore[untyped-decorator]
def from_json(family: str, query: Query) -> Answer:
    model = models[family]
    return Answer(y=model(model.row(query.x)[None])[0].tolist())


@app.post("/{family}/binary")  # type: ignore[untyped-decorator]
async def from_binary(family: str, request: Request) -> Response:
    model = models[family]
    row = model.raw_row(await request.body())
    scores = await run_in_threadpool(model, row[None])
    return Response(scores[0].tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=port(), access_log=False, log_level="warning")
