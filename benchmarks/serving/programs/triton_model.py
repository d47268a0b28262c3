"""One model of Triton's python backend."""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from benchmarks.serving.programs.models import Model


class TritonPythonModel:
    """Triton makes and calls it; the name of the model is the family."""

    def initialize(self, args: dict[str, str]) -> None:
        self.model = Model(json.loads(args["model_config"])["name"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run what dynamic batching put together as one batch, and share out the rows."""
        parts = [triton.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        scores = self.model(np.concatenate(parts))
        responses, first = [], 0
        for part in parts:
            rows = scores[first : first + len(part)]
            responses.append(triton.InferenceResponse([triton.Tensor("y", rows)]))
            first += len(part)
        return responses
