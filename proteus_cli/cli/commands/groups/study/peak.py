"""``proteus study peak``: the highest rate within the SLO."""

from typing import TYPE_CHECKING

import typer

from proteus_cli.cli.command_line.defaults import flags
from proteus_cli.cli.options import common
from proteus_cli.cli.options.groups.study import peak as options
from proteus_cli.cli.options.groups.study import shared

if TYPE_CHECKING:
    from proteus_cli.studies.results import PeakRules


def peak(
    context: typer.Context,
    plan: options.Plan = None,
    *,
    family: options.Family = None,
    variant: options.Variants = None,
    device: options.Device = None,
    url: options.Url = None,
    mode: options.Mode = options.StudyMode.MEASURED,
    batching: options.Batchings = "greedy",
    percentile: shared.Percentile = common.unparsed("p99"),
    max_violations: options.MaxViolations = None,
    min_accuracy: options.MinAccuracy = None,
    slo: options.Slo = None,
    precision: options.Precision = common.unparsed("2%"),
    jitter: shared.Jitter = "p99",
    seed: shared.Seed = 0,
    ca: common.Ca = None,
    budget: shared.Budget = None,
    force: shared.Force = False,
    name: shared.Name = None,
    state: common.State = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Find the highest rate of requests that variants on a device, a plan, or a server carry within the SLO.

    Requests come at random, open loop. With --device, each variant of the family is measured alone on that device; with
    PLAN, the plan as it is; with --url, a server of any make that speaks the Open Inference Protocol.

    Each peak names the accuracy at which it was reached. Variants and plans are fixed; the server at --url chooses its
    variants as it does for its users.

    Each result has a 95 % confidence interval. Requests are offered until it is as narrow as --precision asks for, or
    the time is over: the budget, else a minute for each cell (200 times the SLO where that is longer). Simulated cells
    have no such limit.
    """
    from proteus_cli.studies.budget import Budget

    limit = Budget.of(budget)  # what follows takes time, too

    from proteus_cli.cli.workflows.study.costs import jitter_named
    from proteus_cli.cli.workflows.study.peaks import CarrierOptions, drafted
    from proteus_cli.cli.workflows.study.running import show, studied
    from proteus_cli.store import Workspace
    from proteus_cli.studies.peak.carriers import PeakQuestion

    asked = CarrierOptions(plan, family, variant, device, url, slo, ca, name)
    rules = _rules(percentile, max_violations, precision, min_accuracy or 0.0)
    rule_names = list(dict.fromkeys(each.strip() for each in batching.split(",")))
    question = PeakQuestion(rules, mode.value, rule_names, jitter_named(jitter), seed)
    workspace = Workspace(workspace_dir, state)
    draft = drafted(workspace, asked, question, flags(context))
    show(studied(workspace, draft, limit, force=force or url is not None), json=json)


def _rules(answered_frac: float, max_violations: float | None, precision: float, min_accuracy: float) -> "PeakRules":
    """The stricter of both bounds counts."""
    from proteus_cli.studies.results import PeakRules

    allowed = round(1 - answered_frac, 12)
    allowed = allowed if max_violations is None else min(allowed, max_violations)
    return PeakRules(allowed, precision, min_accuracy=min_accuracy)
