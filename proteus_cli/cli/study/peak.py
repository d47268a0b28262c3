"""``proteus study peak``: the highest rate within the SLO."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from proteus_cli.cli import options
from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.command_line.defaults import flags
from proteus_cli.cli.study import shared
from proteus_cli.errors import UsageError
from proteus_cli.units import parse_share

if TYPE_CHECKING:
    from proteus_cli.store import Workspace
    from proteus_cli.studies.frame import StudyDraft

_measuring = partial(Option, rich_help_panel=sections.MEASURING)

OF_NO_SERVER = {"--device", "--variant", "--mode", "--batching", "--jitter"}
"""Options that a server at a URL does not take."""


class StudyMode(StrEnum):
    """The source of figures."""

    MEASURED = "measured"
    EMULATED = "emulated"
    SIMULATED = "simulated"


Plan = Annotated[
    Path | None,
    Argument(metavar="PLAN", autocompletion=completion.plans, help="A plan to offer requests to, instead of a device."),
]
Family = Annotated[
    str | None,
    Option(
        metavar="FAMILY",
        show_default="all of a plan",
        help="The family that is asked for; of another server, the model.",
    ),
]
Variants = Annotated[
    list[str] | None,
    Option(
        **shared.NAMES,
        metavar="VARIANT",
        show_default="all that fit the SLO",
        help="A variant to measure on the device. Repeatable.",
    ),
]
Device = Annotated[
    str | None,
    Option(
        metavar="DEVICE",
        autocompletion=completion.devices,
        show_default="the first one with a profile",
        help="The device that variants are measured on, alone.",
    ),
]
Url = Annotated[str | None, Option(metavar="URL", help="Offer requests to the server at this URL, of any make.")]
Mode = Annotated[
    StudyMode,
    _measuring(
        help="`measured`: a server runs the models here. `emulated`: it waits as long as the profile says. "
        "`simulated`: in virtual time, by the profile."
    ),
]
Batchings = Annotated[
    str,
    _measuring(metavar="RULE,…", help="Batching rules to measure each with: greedy, proactive, aimd, nexus, static-N."),
]
MaxViolations = Annotated[
    float | None,
    _measuring(
        parser=parse_share,
        metavar="SHARE",
        show_default="by the percentile",
        help="The most of all requests that may miss the SLO, such as `0.1%`; with --percentile, the stricter counts.",
    ),
]
MinAccuracy = Annotated[
    float | None,
    _measuring(
        parser=parse_share,
        metavar="ACCURACY",
        show_default="any",
        help="Each request asks for a variant of at least this accuracy, `0.9` or `90%`: a peak below does not count.",
    ),
]
Slo = Annotated[
    float | None,
    _measuring(
        **options.DURATION,
        show_default="as the server says",
        help="With --url: the latency target, instead of what the server says; needed where it says none.",
    ),
]
Precision = Annotated[
    float,
    _measuring(
        parser=parse_share, metavar="SHARE", help="How far the interval may reach from the peak, on either side."
    ),
]


def peak(
    context: typer.Context,
    plan: Plan = None,
    *,
    family: Family = None,
    variant: Variants = None,
    device: Device = None,
    url: Url = None,
    mode: Mode = StudyMode.MEASURED,
    batching: Batchings = "greedy",
    percentile: shared.Percentile = options.unparsed("p99"),
    max_violations: MaxViolations = None,
    min_accuracy: MinAccuracy = None,
    slo: Slo = None,
    precision: Precision = options.unparsed("2%"),
    jitter: shared.Jitter = "p99",
    seed: shared.Seed = 0,
    ca: options.Ca = None,
    budget: shared.Budget = None,
    force: shared.Force = False,
    name: shared.Name = None,
    state: options.State = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """Find the highest rate of requests that variants on a device, a plan, or a server carry within the SLO.

    Requests come at random, open loop. With --device, each variant of the family is measured alone on that device. With
    PLAN, the plan is measured as it is; with --url, a server of any make that speaks the Open Inference Protocol.

    Each peak names the accuracy at which it was reached. Variants and plans are fixed; the server at --url chooses its
    variants as it does for its users.

    Each result has a 95 % confidence interval. Requests are offered until it is as narrow as --precision asks for, or
    the time is over. The time is the budget, else a minute for each cell (200 times the SLO where that is longer).
    Simulated cells have no such limit.
    """

    def drafted(workspace: "Workspace") -> "StudyDraft":
        from proteus_cli.cli.servers import token, trusting
        from proteus_cli.cli.study.cost import jitter_named
        from proteus_cli.studies.peak.carriers import PeakQuestion, Server, require_served
        from proteus_cli.studies.peak.drafts import device_draft, plan_draft, url_draft
        from proteus_cli.studies.results import PeakRules

        allowed_frac = round(1 - percentile, 12)
        allowed_frac = allowed_frac if max_violations is None else min(allowed_frac, max_violations)
        rules = PeakRules(allowed_frac, precision, min_accuracy=min_accuracy or 0.0)
        rule_names = list(dict.fromkeys(each.strip() for each in batching.split(",")))
        question = PeakQuestion(rules, mode.value, rule_names, jitter_named(jitter), seed)
        _require_together(plan, url, slo, ca, flags(context))
        if plan is not None:
            return plan_draft(workspace, plan, family, question, name or "")
        if family is None:
            raise UsageError("Which family is to be measured?", hint="name it: `--family digits`")
        if url is None:
            on = next(iter(workspace.profiles())) if device is None else device
            return device_draft(workspace, family, variant or (), on, question, name or "")
        server = Server(url, token(), trusting(ca), slo)
        require_served(server, family, rules.min_accuracy)
        return url_draft(server, family, question, name or "")

    shared.run(drafted, budget, workspace_dir, state, force=force or url is not None, json=json)


def _require_together(
    plan: Path | None, url: str | None, slo_s: float | None, ca: Path | None, given: set[str]
) -> None:
    """Raise `UsageError` where options do not go together."""
    if slo_s == 0:
        raise UsageError("An SLO is longer than `--slo 0s`.", hint="give the latency target: `--slo 50ms`")
    strange = sorted(given & (OF_NO_SERVER if url is not None else {"--device", "--variant"}))
    if url is not None and (plan is not None or strange):
        raise UsageError(
            f"`{strange[0] if strange else plan}` makes no sense with `--url`: the server has its own.",
            hint="leave one of them out",
        )
    if url is None and (slo_s is not None or ca is not None):
        raise UsageError(
            f"`{'--slo' if slo_s is not None else '--ca'}` is for servers.",
            hint="give `--url`; the SLO of a family is in engines/catalog.toml",
        )
    if plan is not None and strange:
        raise UsageError(f"`{strange[0]}` makes no sense with a plan.", hint="the plan says what is where")
