"""What `proteus study peak` was asked for, as a draft."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proteus_cli.cli.options.groups.study.peak import OF_NO_SERVER
from proteus_cli.cli.servers import token, trusting
from proteus_cli.errors import UsageError
from proteus_cli.store import Workspace
from proteus_cli.studies.frame import StudyDraft
from proteus_cli.studies.peak.carriers import PeakQuestion, Server, require_served
from proteus_cli.studies.peak.drafts import device_draft, plan_draft, url_draft


@dataclass(frozen=True, slots=True)
class CarrierOptions:
    """Who is asked: a plan, a device, or a server at a URL."""

    plan: Path | None
    family: str | None
    variants: Sequence[str] | None
    device: str | None
    url: str | None
    slo_s: float | None
    ca: Path | None
    name: str | None


def drafted(workspace: Workspace, asked: CarrierOptions, question: PeakQuestion, given: set[str]) -> StudyDraft:
    """The draft. Raises `UsageError` where options do not go together, `ServerError` where there is no such server."""
    name = asked.name or ""
    if asked.slo_s == 0:
        raise UsageError("An SLO is longer than `--slo 0s`.", hint="give the latency target: `--slo 50ms`")
    if asked.url is not None:
        _require_server_only(asked, given)
        family = _family(asked)
        server = Server(asked.url, token(), trusting(asked.ca), asked.slo_s)
        require_served(server, family, question.rules.min_accuracy)
        return url_draft(server, family, question, name)
    if asked.slo_s is not None or asked.ca is not None:
        option = "--slo" if asked.slo_s is not None else "--ca"
        raise UsageError(
            f"`{option}` is for servers.", hint="give `--url`; the SLO of a family is in engines/catalog.toml"
        )
    if asked.plan is not None:
        if strange := sorted(given & {"--device", "--variant"}):
            raise UsageError(f"`{strange[0]}` makes no sense with a plan.", hint="the plan says what is where")
        return plan_draft(workspace, asked.plan, asked.family, question, name)
    device = next(iter(workspace.profiles())) if asked.device is None else asked.device
    return device_draft(workspace, _family(asked), asked.variants or (), device, question, name)


def _family(asked: CarrierOptions) -> str:
    if asked.family is None:
        raise UsageError("Which family is to be measured?", hint="name it: `--family digits`")
    return asked.family


def _require_server_only(asked: CarrierOptions, given: set[str]) -> None:
    strange = sorted(given & OF_NO_SERVER)
    if asked.plan is not None or strange:
        option = strange[0] if strange else str(asked.plan)
        raise UsageError(
            f"`{option}` makes no sense with `--url`: the server has its own.", hint="leave one of them out"
        )
