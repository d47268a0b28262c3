"""``proteus rollout``: bring a new version of a model into service by steps, on a running server."""

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from proteus_cli.cli import console, options
from proteus_cli.cli.command_line import sections
from proteus_cli.cli.command_line.command import Command, group_of_commands
from proteus_cli.cli.servers import asked
from proteus_cli.errors import BadRequest, UsageError
from proteus_cli.settings import flag
from proteus_cli.urls import path_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console, RenderableType

    from proteus_cli.domain.rollouts import Interval, RolloutStatus, TermStatus
    from proteus_cli.serving.adaptation.rollout_requests import RolloutsStatus, RolloutStart

PATH = "/v2/proteus/rollouts"
WATCH_EVERY_S = 2.0

app = group_of_commands("Roll out a new version of a model on a running server.")

# --- options, also of `proteus task retrain`

Family = Annotated[str, Argument(metavar="FAMILY", help="The family, as the catalog calls it.")]
Url = Annotated[str, Option(metavar="URL", help="The server.")]

_option = partial(Option, rich_help_panel=sections.ROLLOUT)

CANARY = "1%,10%,50%"
CONFIDENCE = "0.95"
MOST_QUERIES = 25_000
ROLLBACK_WINDOW = "10min"

Shadow = Annotated[
    str | None,
    _option(
        metavar="SHARE",
        help="Ask the new version, too, about this share of what the old one has answered, where a device is idle, and "
        "compare the answers; nobody sees them.",
    ),
]
Canary = Annotated[
    str,
    _option(
        metavar="SHARE,…",
        help="The share of the queries that the new version answers, step by step.",
    ),
]
Guard = Annotated[
    str | None,
    _option(
        metavar="JSON",
        help='The terms that must hold of the new version, such as `[{"metric": "errors", "value": 0.01}]`. Where one '
        "does not, the old version serves again.",
        show_default="accuracy >= old - 0.005 and p99 <= slo",
    ),
]
Confidence = Annotated[
    str,
    _option(
        metavar="SHARE",
        help="How sure the guard must be, over all steps together.",
    ),
]
Auto = Annotated[
    bool,
    _option(
        "--auto",
        help="Go on once the guard passes; else each step waits for `promote`.",
    ),
]
MostQueries = Annotated[
    int,
    _option(
        metavar="NUMBER",
        min=1,
        help="With --auto, end a step that did not pass after so many answers of the new version.",
    ),
]
RollbackWindow = Annotated[
    str,
    _option(
        metavar="DURATION",
        help="Keep the old version loaded for so long after the last step.",
    ),
]


@dataclass(frozen=True, slots=True)
class RolloutOptions:
    """The options that `proteus rollout start` and `proteus task retrain` share, unparsed."""

    shadow: str | None = None
    canary: str = CANARY
    guard: str | None = None
    confidence: str = CONFIDENCE
    auto: bool = False
    most_queries: int = MOST_QUERIES
    rollback_window: str = ROLLBACK_WINDOW

    def start_of(self, family: str, version: str) -> "RolloutStart":
        """The body of the request. Raises `UsageError` for an invalid quantity or guard."""
        import msgspec

        from proteus_cli.domain.rollouts import DEFAULT_GUARD, Term
        from proteus_cli.input_files import decoded
        from proteus_cli.serving.adaptation.rollout_requests import RolloutStart
        from proteus_cli.units import parse_duration, parse_share

        guard: tuple[Term, ...] = DEFAULT_GUARD
        if self.guard is not None:
            hint = "docs/lifecycle.md lists the terms of a guard"
            decode = msgspec.json.Decoder(tuple[Term, ...]).decode
            guard = decoded(self.guard.encode(), decode, f"`--guard {self.guard}` is no guard", hint=hint)
        return RolloutStart(
            family, version,
            shadow=parse_share(self.shadow) if self.shadow is not None else 0.0,
            canary=tuple(parse_share(each) for each in self.canary.split(",")), guard=guard,
            confidence=parse_share(self.confidence), auto=self.auto,
            rollback_window_s=parse_duration(self.rollback_window), most_queries=self.most_queries,
        )  # fmt: skip

    def require_possible(self, family: str) -> None:
        """Raise `UsageError` for options that a server would refuse."""
        try:
            self.start_of(family, "").specification("old", "new")
        except BadRequest as error:
            hint = "`proteus rollout start --help` says how a version can be rolled out"
            raise UsageError(f"No version can be rolled out so: {error.message.rstrip('.')}.", hint=hint) from error

    def command(self, family: str, version: str, url: str | None = None, ca: Path | None = None) -> str:
        """The shell command that starts the same roll-out."""
        import shlex

        words = ["proteus", "rollout", "start", family, version]
        for each in fields(self):
            value = getattr(self, each.name)
            if value != each.default:
                words += [flag(each.name)] if value is True else [flag(each.name), str(value)]
        words += ["--url", url] if url is not None else []
        words += ["--ca", str(ca)] if ca is not None else []
        return shlex.join(words)


# --- commands


@app.command(cls=Command)
def start(
    family: Family,
    version: Annotated[
        str,
        Argument(
            metavar="VARIANT@NEW",
            help="A variant of the catalog, and the directory of its new version, beside that of the old one.",
        ),
    ],
    *,
    shadow: Shadow = None,
    canary: Canary = CANARY,
    guard: Guard = None,
    confidence: Confidence = CONFIDENCE,
    auto: Auto = False,
    most_queries: MostQueries = MOST_QUERIES,
    rollback_window: RollbackWindow = ROLLBACK_WINDOW,
    url: Url = "http://127.0.0.1:8000",
    ca: options.Ca = None,
    json: options.Json = False,
) -> None:
    """Start to roll out a version: it answers a growing share of the queries, as long as the guard holds.

    The server measures the version first, and loads it beside the old one. A token is read from PROTEUS_TOKEN.
    """
    how = RolloutOptions(shadow, canary, guard, confidence, auto, most_queries, rollback_window)
    _show(begun(url, ca, how.start_of(family, version)), json=json)


@app.command(cls=Command)
def status(
    *,
    watch: Annotated[
        bool, Option("--watch", help="Show it again as it changes, until all roll-outs are over.")
    ] = False,
    url: Url = "http://127.0.0.1:8000",
    ca: options.Ca = None,
    json: options.Json = False,
) -> None:
    """Show the last roll-out of each family: its step, and what is known of the new version.

    Numbers in brackets are 95 % confidence intervals. A token is read from PROTEUS_TOKEN.
    """
    if watch and json:
        raise UsageError("--watch shows a table.", hint="leave --json out, or --watch")
    if watch:
        watch_rollouts(lambda: rollouts_of(url, ca).rollouts)
        return
    found = rollouts_of(url, ca)
    tables = [rollout_table(found.rollouts)] if found.rollouts else []
    lines = [line for each in found.rollouts for line in rollout_lines(each)]
    console.deliver(found, json=json, tables=tables, lines=lines if tables else [f"{url} rolls no version out"])


@app.command(cls=Command)
def promote(
    family: Family,
    *,
    fully: Annotated[bool, Option("--fully", help="To the end at once, and not to the next step alone.")] = False,
    url: Url = "http://127.0.0.1:8000",
    ca: options.Ca = None,
    json: options.Json = False,
) -> None:
    """Go on to the next step, whatever the guard says; after the last one, the new version serves in place of the old.

    The catalog of the server's workspace names the new version then. A token is read from PROTEUS_TOKEN.
    """
    from proteus_cli.domain.rollouts import RolloutStatus
    from proteus_cli.serving.adaptation.rollout_requests import RolloutPromotion

    path = f"{PATH}/{path_of(family)}/promote"
    _show(asked(url, ca, path, RolloutStatus, RolloutPromotion(fully)), json=json)


@app.command(cls=Command)
def abort(
    family: Family,
    *,
    reason: Annotated[str, Option(metavar="TEXT", help="Why, for the journal.")] = "",
    url: Url = "http://127.0.0.1:8000",
    ca: options.Ca = None,
    json: options.Json = False,
) -> None:
    """End a roll-out: the old version serves on, or, until the rollback window is over, again.

    A token is read from PROTEUS_TOKEN.
    """
    from proteus_cli.domain.rollouts import RolloutStatus
    from proteus_cli.serving.adaptation.rollout_requests import RolloutAbortion

    path = f"{PATH}/{path_of(family)}/abort"
    _show(asked(url, ca, path, RolloutStatus, RolloutAbortion(reason)), json=json)


def begun(url: str, ca: Path | None, start: "RolloutStart") -> "RolloutStatus":
    """Have a server start a roll-out. Returns its status. Raises as `asked` does."""
    from proteus_cli.domain.rollouts import RolloutStatus

    return asked(url, ca, PATH, RolloutStatus, start)


def rollouts_of(url: str, ca: Path | None) -> "RolloutsStatus":
    """The last roll-out of each family on a server. Raises as `asked` does."""
    from proteus_cli.serving.adaptation.rollout_requests import RolloutsStatus

    return asked(url, ca, PATH, RolloutsStatus)


# --- output


def _show(status: "RolloutStatus", *, json: bool) -> None:
    console.deliver(status, json=json, tables=[rollout_table([status])], lines=rollout_lines(status))


_STYLES = {
    "pass": "green", "fail": "red",
    "done": "green", "aborted": "yellow", "rolled back": "red", "failed": "red",
}  # fmt: skip
"""By ending, or by verdict of the guard."""


def rollout_table(rollouts: "Sequence[RolloutStatus]") -> "RenderableType":
    """A row for each roll-out."""
    from proteus_cli.reporting.tables import name, number, table, text
    from proteus_cli.units import format_percent

    rows = table(
        name("family"), name("new"), name("old"), text("step"), number("share"), number("queries"), text("guard")
    )
    for each in rollouts:
        wanted = each.specification
        rows.add_row(
            wanted.family, wanted.new, wanted.old, _step(each), format_percent(each.share),
            f"{each.counts.shadowed if each.stage == 'shadow' else each.counts.canary:,}", each.verdict.value,
            style=_STYLES.get(each.ending or each.verdict, ""),
        )  # fmt: skip
    return rows


def rollout_lines(status: "RolloutStatus") -> "Iterator[str]":
    """Lines on each term of the guard, the labels it still needs, and the end of the roll-out."""
    needed = _labels_needed(status.specification.confidence)
    if status.stage == "measuring":
        labels = f", and needs about {needed:,} labels" if any(map(_is_of_labels, status.terms)) else ""
        yield f"{status.specification.family}: measuring the new version; its guard begins after that{labels}"
    else:
        for term in status.terms:
            yield f"{status.specification.family}: {term.term}: {term.verdict}{_seen(term, needed)}"
    if status.waits_for_promote:
        yield f"{status.specification.family}: waits for `proteus rollout promote {status.specification.family}`"
    if status.note:
        yield f"{status.specification.family}: {status.note}"
    if status.reason:
        yield f"{status.specification.family}: {status.ending}: {status.reason}"


def progress_line(status: "RolloutStatus") -> str:
    """The step of a roll-out, without the numbers that change with each query."""
    wanted, why = status.specification, "; ".join(filter(None, [status.reason, status.note]))
    return f"{wanted.family}: {wanted.new}: {_step(status)}, guard: {status.verdict}{why and f' ({why})'}"


def _step(status: "RolloutStatus") -> str:
    if status.ending is not None:
        return status.ending.value
    of = len(status.specification.canary_fracs)
    return f"canary {status.step} of {of}" if status.stage == "canary" else status.stage.value


def _labels_needed(confidence: float) -> int:
    """About how many labelled queries pass an equal version: 2 v ln(1 / (1 - confidence)) / 0.02², to the hundred.

    The variance v belongs to an accuracy of 0.92; 0.02 is the distance to a notably worse version
    (`control/rollouts/__init__.py`).
    """
    import math

    return round(-2 * 0.92 * 0.08 * math.log(1 - confidence) / 0.02**2 / 100) * 100


def _is_of_labels(term: "TermStatus") -> bool:
    return term.term.startswith("accuracy")


def _seen(term: "TermStatus", labels_needed: int) -> str:
    from proteus_cli.units import counted, format_percent

    def within(interval: "Interval | None") -> str:
        return "" if interval is None else f" [{' – '.join(map(format_percent, interval))}]"

    if term.new is None and _is_of_labels(term):
        return f", 0 of about {labels_needed:,} labels of its queries have come: clients send them as feedback"
    if term.new is None:
        return ", nothing is known of it yet"
    what = " late" if term.term.startswith("p") else ""  # of a quantile of latency
    new = f"{format_percent(term.new)}{what}{within(term.new_interval)}"
    old = "" if term.old is None else f", old {format_percent(term.old)}{within(term.old_interval)}"
    few = _is_of_labels(term) and term.verdict == "hold" and term.observations < labels_needed
    queries = f"{term.observations:,} of about {labels_needed:,} labels" if few else ""
    return f", {new}{old} in {queries or counted(term.observations, 'query', 'queries')}"


def watch_rollouts(
    look: "Callable[[], Sequence[RolloutStatus]]",
    on: "Console | None" = None,
    sleep: "Callable[[float], object] | None" = None,
) -> None:
    """Show the roll-outs that ``look`` returns until all are over: as one picture on a terminal, else a line a change.

    Raises what ``look`` raises.
    """
    import time

    from rich.console import Console, Group
    from rich.live import Live

    def are_over() -> bool:
        return all(each.is_over for each in found)

    def picture() -> Group:
        return Group(rollout_table(found), "\n".join(line for each in found for line in rollout_lines(each)))

    shown, pause = on or Console(highlight=False, emoji=False, markup=False), sleep or time.sleep
    found = look()
    if not found:
        console.say("no version is rolled out")
        return
    if shown.is_terminal:
        with Live(picture(), console=shown, auto_refresh=False) as live:
            while not are_over():
                pause(WATCH_EVERY_S)
                found = look()
                live.update(picture(), refresh=True)
        return
    told = dict[str, str]()
    while True:
        for each in found:
            line = progress_line(each)
            if told.get(each.specification.family) != line:
                told[each.specification.family] = line
                shown.print(line, soft_wrap=True)
        if are_over():
            return
        pause(WATCH_EVERY_S)
        found = look()
