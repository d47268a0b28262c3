"""What happened in a simulation."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from proteus_cli.control.decision import Launch
from proteus_cli.domain.report import Loss, Replan
from proteus_cli.domain.request import RequestRecord


@dataclass(slots=True)
class SimulationResult:
    """What happened: a record for each request, in the order of their ends, and the plans that were made.

    ``changes`` are without those that changed nothing but shares and batches; ``losses`` are in order.
    ``expected_attainment``, by family: what the plans in force expected, in the mean over the queries they were for.
    ``interrupted_s``: the virtual time at which Ctrl-C ended the run; requests that waited or ran have no record.
    """

    ended: list[RequestRecord] = field(default_factory=list)
    replans: list[Replan] = field(default_factory=list)
    changes: list[Replan] = field(default_factory=list)
    launches: list[tuple[float, Launch]] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    expected_attainment: Mapping[str, float] = field(default_factory=dict)
    interrupted_s: float | None = None
