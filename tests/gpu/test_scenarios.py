"""The scenarios of the runtime part on a real GPU: the same code, with TensorRT, or CuPy where that isn't installed."""

import os

import pytest
from contract.runtime.running import check_passed, run, scenarios
from gpu.here import Gpu, find

GPU = find()


@pytest.mark.gpu
@pytest.mark.skipif(isinstance(GPU, str), reason=f"needs a GPU: {GPU}; `make contract` checks what can be without one")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", scenarios("real"))
def test_scenario(scenario: str) -> None:
    assert isinstance(GPU, Gpu)
    environment = {**os.environ, "CONTRACT_DEVICE": "real", "CONTRACT_COMPUTE": GPU.compute}
    figures = check_passed(run(environment, scenario))
    print(f"{scenario} on {GPU}: {figures}")  # noqa: T201 - `make test-gpu` shows what ran where
