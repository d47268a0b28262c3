"""With how many slots devices are opened."""

from pathlib import Path
from typing import Any

import pytest
from builders import make_catalog, make_family
from tiny import mlp

from proteus_cli.backends.tensorrt.backend import TensorRT
from proteus_cli.domain.device import Device
from proteus_cli.serving import hardware
from proteus_cli.serving.hardware import of_this_machine

GPU = Device("gpu0", "t4", "gpu", "Tesla T4", 2**30)


def test_a_gpu_is_opened_with_the_slots_that_were_profiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What opens it is the one thing that is a double, as there is no GPU."""
    opened: list[Any] = []

    class Gpu(TensorRT):
        def __init__(self) -> None:
            self.versions: Any = type("Versions", (), {"name": "tensorrt"})
            self.context: Any = None

    monkeypatch.setattr(hardware, "open_backend", lambda *_: Gpu())
    monkeypatch.setattr(hardware, "_signature", lambda *_: None)
    monkeypatch.setattr(hardware, "GpuExecutor", lambda _context, _plan, *, slots: opened.append(slots))
    catalog = make_catalog(make_family("a", {"a-s": 0.8}))
    models = {("a", "a-s"): mlp(tmp_path / "m.onnx")}
    devices = {"gpu0": GPU}
    here = of_this_machine(devices, catalog, models, tmp_path, {"gpu0": 3})
    here.executor(GPU)
    assert opened == [3]
    assert not here.is_emulated
