"""The one door: every front end calls `DataPlane.infer`, and every request ends here, exactly once."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from proteus_cli.backends.base import Arrays, Signature
from proteus_cli.control.controller import Controller, Refused
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.request import Outcome, Request
from proteus_cli.errors import BadRequest, DeadlineExceeded, EngineFailed, Overloaded, UnknownModel
from proteus_cli.serving.counts import family_counts
from proteus_cli.serving.lane import Answered, Clock, Lane
from proteus_cli.serving.lifecycle import Lifecycle
from proteus_cli.serving.oip import InferRequest

log = logging.getLogger("proteus.dataplane")

_US_PER_S = 1e6
_LONGEST_US = 2**63 - 1


@dataclass(slots=True, eq=False)
class Pending:
    """What the door keeps of a request while it is inside."""

    inputs: Arrays
    future: "asyncio.Future[Answered]"


class DataPlane:
    """Checks, admits, waits, accounts. Raises the `RequestError` of how a request ended unless it was served."""

    def __init__(
        self,
        catalog: Catalog,
        controller: Controller,
        lifecycle: Lifecycle,
        clock: Clock,
        *,
        signatures: Mapping[str, Signature],
        most_rows: Mapping[str, int],
        best_accuracy: Mapping[str, float],
    ) -> None:
        self.signatures, self.lifecycle, self.controller = signatures, lifecycle, controller
        self.clock = clock
        self.slo_s, self.best_accuracy = catalog.slo_s(), best_accuracy
        self.counts = family_counts(self.slo_s)
        self.inside = 0
        self.lanes: Mapping[str, Lane] = {}  # set once the fleet exists
        self._most_rows = most_rows
        self._ids = count()

    def require_family(self, name: str) -> Signature:
        """What the family takes and gives. Raises `UnknownModel`."""
        try:
            return self.signatures[name]
        except KeyError:
            raise UnknownModel(f"no model `{name}`; there are: {', '.join(self.signatures)}") from None

    async def infer(self, family: str, infer_request: InferRequest) -> Answered:
        """Answer one request by its deadline, or raise how it ended."""
        self.lifecycle.require_ready()
        now_s = self.clock()
        deadline_s = now_s + self._allowed_s(family, infer_request.parameters)
        self._require_rows(family, infer_request.rows)
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        pending = Pending(infer_request.inputs, future)
        request = Request(
            next(self._ids), family, now_s, deadline_s, infer_request.rows, pending, patience_s=self.slo_s[family]
        )
        match self.controller.offer(request, now_s):
            case Refused(retry_after_s=retry_after_s):
                self.counts[family].ended(Outcome.REJECTED)
                raise Overloaded(f"more queries for `{family}` than the plan can carry", retry_after_s=retry_after_s)
            case admitted:
                self.inside += 1
                for device in admitted.devices:
                    self.lanes[device].ask()
        return await future

    def answered(self, request: Request, answer: Answered) -> None:
        now_s, counts = self.clock(), self.counts[request.family]
        outcome = Outcome.SERVED if now_s <= request.deadline_s else Outcome.LATE
        counts.ended(outcome, answer.hosted.variant, answer.hosted.device)
        counts.latency.add(now_s - request.arrival_s)
        counts.batch.add(answer.batch_rows)
        counts.answered(answer.hosted.accuracy, now_s)
        counts.rows += request.rows
        counts.batches += request.rows / answer.batch_rows
        counts.request_s += now_s - request.arrival_s
        counts.queue_s += answer.started_s - request.arrival_s
        counts.compute_s += answer.compute_s
        if outcome is Outcome.SERVED:
            self._leave(request, answer)
        else:
            self._leave(request, DeadlineExceeded("the deadline passed while the batch was running", is_late=True))

    def dropped(self, request: Request) -> None:
        self.counts[request.family].ended(Outcome.DROPPED)
        self._leave(request, DeadlineExceeded("no variant that is loaded could answer by the deadline", is_late=False))

    def failed(self, request: Request, error: BaseException) -> None:
        log.error("a batch of %s failed: %s", request.family, error)
        self.counts[request.family].ended(Outcome.FAILED)
        self._leave(request, EngineFailed("the model failed on this batch"))

    def _leave(self, request: Request, ending: Answered | Exception) -> None:
        self.inside -= 1
        future: asyncio.Future[Answered] = request.payload.future
        if future.done():  # whoever waited for it has gone away
            return
        if isinstance(ending, Exception):
            future.set_exception(ending)
        else:
            future.set_result(ending)

    def _allowed_s(self, family: str, parameters: Mapping[str, Any]) -> float:
        """The family's SLO, or the request's own ``timeout`` in microseconds."""
        if "min_accuracy" in parameters:
            raise BadRequest("parameter `min_accuracy` is not supported by this version")
        timeout_us = parameters.get("timeout")
        if timeout_us is None or timeout_us == 0:  # 0 is Triton's way to say "none"
            return self.slo_s[family]
        if isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or not 0 < timeout_us <= _LONGEST_US:
            raise BadRequest(f"parameter `timeout` must be a whole number of microseconds; got {timeout_us!r}")
        return timeout_us / _US_PER_S

    def _require_rows(self, family: str, rows: int) -> None:
        if rows > self._most_rows[family]:
            raise BadRequest(f"`{family}` takes at most {self._most_rows[family]} rows a request; got {rows}")
