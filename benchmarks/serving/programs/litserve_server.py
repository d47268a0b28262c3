"""LitServe: one `LitAPI` per family. It reads JSON and forms; there is no raw body."""

from typing import Any

import litserve
import numpy as np

from benchmarks.serving.programs.models import DELAY_S, MAX_BATCH, Floats, Model, families, instances, port


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:  # noqa: ARG002 - its signature
        self.model = Model(self.api_path.strip("/"))

    def decode_request(self, request: dict[str, Any]) -> Floats:
        return self.model.row(request["x"])

    def batch(self, inputs: list[Floats]) -> Floats:
        return np.stack(inputs)

    def predict(self, x: Floats) -> Floats:
        return self.model(x)

    def unbatch(self, output: Floats) -> list[Floats]:
        return list(output)

    def encode_response(self, output: Floats) -> dict[str, list[float]]:
        return {"y": output.tolist()}


def main() -> None:
    apis = [Classifier(max_batch_size=MAX_BATCH, batch_timeout=DELAY_S, api_path=f"/{family}") for family in families()]
    server = litserve.LitServer(apis, accelerator="cpu", workers_per_device=instances())
    server.run(host="127.0.0.1", port=port(), num_api_servers=1, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
