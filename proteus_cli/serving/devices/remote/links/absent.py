"""A device that cannot be opened now, as its host is not connected, or has it no more: lost from the start."""

from pathlib import Path

from proteus_cli.backends.base import Signature
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import HostLost
from proteus_cli.serving.devices.executor import Batch, BatchCallback, ExecutorBase


class AbsentExecutor(ExecutorBase):
    """An `Executor` that is lost, without a call of any ``on_lost``."""

    def __init__(self, device: str, loss: HostLost) -> None:
        super().__init__(device, lambda _: None)
        self._loss = self._absence = loss

    async def load(self, key: VariantKey, model: Path, warm_up_rows: int, *, gives_way: bool = False) -> Signature:  # noqa: ARG002
        raise self._raised()

    def unload(self, key: VariantKey) -> None: ...

    def submit(self, batch: Batch, done: BatchCallback) -> None:  # noqa: ARG002
        raise self._raised()

    def close(self) -> None: ...

    def abandon(self) -> None: ...

    def _raised(self) -> HostLost:
        """Another one each time, as each has a traceback."""
        return HostLost(self._absence.message, hint=self._absence.hint, why=self._absence.why)
