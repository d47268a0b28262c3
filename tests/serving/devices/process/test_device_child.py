"""The process of a device, here: what it sends."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.serving.devices.executor import Batch, BatchResult
from proteus_cli.serving.devices.process.device_server import DeviceServer, MemoryLink
from proteus_cli.serving.devices.process.layout import BatchLayout
from proteus_cli.serving.devices.process.messages import LeftEvent, RanEvent, RunCommand

KEY = VariantKey("f", "v")
FLOAT = np.dtype(np.float32)
BOUNDS = ExitBounds([1e12, 1e12], [1, 1], ())
NO_INPUTS = Signature((), (TensorSpec("y", FLOAT, ()),))


class Leaving:
    """Answers two requests with 1 and 2; the first leaves."""

    runs_inline = True

    def run(self, batch: Batch) -> BatchResult:
        assert batch.leaving is not None
        batch.leaving([0], BatchResult((np.array([1.0], FLOAT),), 0.001, ended_s=1.0))
        return BatchResult((np.array([1.0, 2.0], FLOAT),), 0.002, ended_s=2.0)


class Refusing:
    """A channel on which what leaves cannot be sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, event: Any, descriptors: Sequence[int] = (), *, wait: bool) -> None:
        assert wait
        for each in descriptors:
            os.close(each)
        if isinstance(event, LeftEvent):
            raise OSError("too many references")
        self.sent.append(event)


def test_what_leaves_and_cannot_be_sent_comes_with_its_batch(caplog: pytest.LogCaptureFixture) -> None:
    channel, executor = Refusing(), Leaving()
    as_any: Any = (channel, executor)
    server = DeviceServer(as_any[1], MemoryLink(as_any[0]), print)
    server._layouts[KEY] = BatchLayout(NO_INPUTS)
    server.obey(RunCommand(7, KEY, [1, 1], BOUNDS), memoryview(b""))
    (event,) = channel.sent
    assert isinstance(event, RanEvent)
    assert (event.number, [*event.shapes], event.failures) == (7, [(2,)], {})
    assert "too many references" in caplog.text
