"""``proteus task``: families of variants that are trained on labelled rows."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from proteus_cli.cli import console, options, rollout
from proteus_cli.cli.catalog import wrote_catalog
from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.command_line.command import Command, group_of_commands
from proteus_cli.errors import GateFailed, ProteusError, ServerError, UsageError
from proteus_cli.variants.training.ladder import LADDER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from proteus_cli.backends.base import Backend
    from proteus_cli.domain.device import Device
    from proteus_cli.store import Workspace
    from proteus_cli.variants.training.adding import AddedTask
    from proteus_cli.variants.training.retraining import KnownTask, Retraining


class Preferred(StrEnum):
    """The preference of a task."""

    ACCURACY = "accuracy"
    LATENCY = "latency"
    ENERGY = "energy"
    COST = "cost"


Budget = Annotated[
    float,
    Option(
        **options.DURATION,
        help="The longest that training may take. What is trained by then is used.",
        rich_help_panel=sections.LIMITS,
    ),
]

Memory = Annotated[
    int,
    Option(
        **options.SIZE,
        help="The most memory that each process that trains may take.",
        rich_help_panel=sections.LIMITS,
    ),
]

DeviceId = Annotated[
    str | None,
    Option(
        metavar="DEVICE",
        autocompletion=completion.devices,
        show_default="the first CPU device",
        help="The id of the CPU device to measure on.",
        rich_help_panel=sections.MEASURING,
    ),
]

TaskName = Annotated[str, Argument(metavar="NAME", help="A task: a family with `[family.task]` in the catalog.")]

app = group_of_commands("Train families of variants from labelled rows.")


@app.command(cls=Command)
def add(
    name: Annotated[str, Argument(metavar="NAME", help="The new family, which clients ask for.")],
    *,
    data: Annotated[
        Path,
        Option(
            metavar="NPZ",
            help="Labelled rows: the classes `y`, from 0, and the rows as `x`, or as the one input of the models is "
            "to be named. A fifth of each class is held out.",
        ),
    ],
    slo: Annotated[str, Option(metavar="DURATION", help="The latency target, such as `50ms`.")],
    policy: Annotated[
        Preferred,
        Option(help="What its plans aim for: accurate answers, or answers that take little time, energy or money."),
    ] = Preferred.ACCURACY,
    models: Annotated[
        str | None,
        Option(
            metavar="KIND,…",
            show_default="all",
            help=f"The kinds of models to train, of {', '.join(f'`{kind}`' for kind in LADDER)}. The numbers are "
            "trees of a forest or of boosting, and hidden units of a network.",
        ),
    ] = None,
    seed: Annotated[
        int, Option(min=0, max=2**32 - 1, metavar="NUMBER", help="Of the split, and of what is random in training.")
    ] = 0,
    budget: Budget = options.unparsed("5min"),
    memory: Memory = options.unparsed("4GiB"),
    rows: Annotated[
        int,
        Option(
            min=10,
            max=1_000_000_000,
            metavar="COUNT",
            help="Train on so many rows at most, drawn from each class alike.",
            rich_help_panel=sections.LIMITS,
        ),
    ] = 100_000,
    device: DeviceId = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """Train variants of rising cost, and add those that are worth it as a new family.

    Each is measured on rows that none is trained on, and within the latency target. Kept is what is more accurate
    than all that is faster. Needs the extra `train`. Run `proteus profile` and `proteus plan` afterwards.
    """
    from proteus_cli.domain.catalog import FamilyPolicy
    from proteus_cli.store import Workspace
    from proteus_cli.variants.training.adding import add_task, new_family, read_place
    from proteus_cli.variants.training.processes import Limits
    from proteus_cli.variants.training.recipes import chosen

    workspace, kinds = Workspace(workspace_dir), chosen(models)
    place = read_place(workspace)
    family = new_family(place, name, slo, data, FamilyPolicy(policy.value), seed=seed, rows=rows)
    on = _opened_cpu(workspace, device)
    with console.progress(f"training {name}") as advance:
        made = add_task(place, family, data, kinds, *on, Limits(budget, memory), advance)
    _show_added(made, workspace.catalog_path, json=json)


def _show_added(made: "AddedTask", catalog: Path, *, json: bool) -> None:
    from proteus_cli.reporting.tables import described, name, number, table, text
    from proteus_cli.units import UNKNOWN, counted, format_size

    rows = table(name("variant"), number("accuracy"), number("rate"), number("size"), name(""), text("why"))
    for each in made.variants:
        rate, kept = f"{each.qps:,.0f}" if each.qps else UNKNOWN, "kept" if each.kept else "dropped"
        rows.add_row(each.variant, f"{each.accuracy:.4f}", rate, format_size(each.size_bytes), kept, each.why)
    notes = (
        f"accuracy: on {counted(made.eval_rows, 'row')} held out; trained on {made.train_rows:,}",
        f"rate: queries per second within the SLO of {made.slo} on {made.device}",
    )
    untrained = f"no time was left to train {', '.join(made.untrained)}: `--budget` gives more"
    kept = counted(sum(each.kept for each in made.variants), "variant")
    lines = [*([untrained] if made.untrained else []), f"added `{made.family}` with {kept}", wrote_catalog(catalog)]
    console.deliver(made, json=json, tables=[described(rows, *notes)], lines=lines)


@app.command(cls=Command)
def retrain(
    name: TaskName,
    *,
    data: Annotated[
        Path | None,
        Option(
            "--data",
            metavar="NPZ",
            show_default="the rows of before",
            help="Other labelled rows than before. Both versions are judged on a part of them that is held out, which "
            "becomes the eval split.",
        ),
    ] = None,
    keep_eval: Annotated[
        bool, Option("--keep-eval", help="Judge both versions on the eval split of the family, and leave it.")
    ] = False,
    keep_catalog: Annotated[
        bool, Option("--keep-catalog", help="Only write the new versions, and say how to roll them out.")
    ] = False,
    max_loss: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            metavar="FRACTION",
            help="How much less accurate than the earlier version a new one may be, to take its place.",
        ),
    ] = 0.01,
    budget: Budget = options.unparsed("5min"),
    memory: Memory = options.unparsed("4GiB"),
    device: DeviceId = None,
    url: Annotated[
        str | None,
        Option(
            "--url",
            metavar="URL",
            help="Leave the catalog as it is, and have the server of this workspace roll the new version out.",
            rich_help_panel=sections.ROLLOUT,
        ),
    ] = None,
    shadow: rollout.Shadow = None,
    canary: rollout.Canary = rollout.CANARY,
    guard: rollout.Guard = None,
    confidence: rollout.Confidence = rollout.CONFIDENCE,
    auto: rollout.Auto = False,
    most_queries: rollout.MostQueries = rollout.MOST_QUERIES,
    rollback_window: rollout.RollbackWindow = rollout.ROLLBACK_WINDOW,
    ca: options.Ca = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """Train the variants of a task anew, and put the new versions in the place of those that are no better.

    Each new version is written beside the earlier one, in a directory of its number. Both are judged on the same
    rows; the exit code is 5 where a new one is less accurate by more than --max-loss, which stays out of the catalog.
    A server takes the others over by SIGHUP, or if it watches. With --url the catalog stays as it is, and that server
    rolls one of them out by steps, as by `proteus rollout start`: of the variant that is asked the most. A token is
    read from PROTEUS_TOKEN. `retrain` in `[family.task]` of the catalog names a command of your own to train with;
    else it needs the extra `train`.
    """
    from proteus_cli.store import Workspace
    from proteus_cli.variants.training.processes import GIVES_WAY, Limits
    from proteus_cli.variants.training.retraining import known_task
    from proteus_cli.variants.training.retraining import retrain as trained_anew

    in_catalog = url is None and not keep_catalog
    known = known_task(Workspace(workspace_dir), name, data)
    how = rollout.RolloutOptions(shadow, canary, guard, confidence, auto, most_queries, rollback_window)
    if in_catalog and how != rollout.RolloutOptions():
        raise UsageError(
            "There is no roll-out that these options could be about.",
            hint="`--url` names the server that is to roll the new version out; "
            "`--keep-catalog` shows the command that does",
        )
    how.require_possible(name)
    if url is not None:
        _require_rollout_possible(known, url, ca)
    on = _opened_cpu(known.workspace, device)
    with console.progress(f"training {name}") as advance:
        made = trained_anew(
            known, *on, Limits(budget, memory, GIVES_WAY), max_loss=max_loss, keeps_split=keep_eval,
            keeps_catalog=not in_catalog, advance=advance, say=console.say,
        )  # fmt: skip
    lines = [f"not trained anew: {', '.join(made.untrained)}"] if made.untrained else []
    if made.passed and in_catalog:
        lines += [
            "wrote engines/catalog.toml",
            "a server takes it over with `--set watch=true`, or by SIGHUP; without: proteus profile",
        ]
    elif made.passed and url is None:
        lines.append("the catalog is as it was; to roll a version out by steps:")
        lines += [f"  {replace(how, auto=True).command(made.family, each.name)}" for each in made.passed]
    console.deliver(made, json=json, tables=[_retrained_table(made, in_catalog=in_catalog)], lines=lines)
    if made.passed and url is not None:
        _roll_out(made, how, url, ca)
    if failed := [f"`{each.name}`" for each in made.versions if not each.passed]:
        raise GateFailed(
            f"Not for the catalog: {', '.join(failed)}, less accurate by more than {max_loss:.4f}, or too slow for the "
            "SLO.",
            hint="the earlier versions stay; train on more or other rows, or allow more with `--max-loss`",
        )


def _retrained_table(made: "Retraining", *, in_catalog: bool) -> "RenderableType":
    """A row for each new version, with both accuracies."""
    from proteus_cli.reporting.tables import described, name, number, table, text
    from proteus_cli.units import UNKNOWN, counted

    rows = table(name("version"), number("earlier"), number("new"), number("rate"), text("as good"))
    for each in made.versions:
        rate = f"{each.qps:,.0f}" if each.qps else UNKNOWN
        what = "yes" if each.passed else "no: it misses the SLO" if not each.qps else "no: it is less accurate"
        rows.add_row(each.name, f"{each.old_accuracy:.4f}", f"{each.accuracy:.4f}", rate, what)
    split = f" ({made.eval})" if in_catalog else ""
    return described(
        rows,
        f"accuracies: on {counted(made.eval_rows, 'row')} held out{split}; trained on {made.train_rows:,}",
        f"rate: queries per second within the SLO on {made.device}",
    )


def _require_rollout_possible(known: "KnownTask", url: str, ca: Path | None) -> None:
    """Raise if the server cannot roll out a version of the task, as far as that is known before the training.

    The server must serve what the catalog says, take roll-outs, and have none of the family under way. Raises
    `UsageError`, and `ServerError` if it does not answer.
    """
    from proteus_cli.cli.catalog import catalog_changes
    from proteus_cli.domain.catalog_changes import in_words

    family = known.family.name
    if found := catalog_changes(known.workspace, url, ca):
        is_unknown = any((each.family, each.variant, each.kind) == (family, "", "new") for each in found)
        raise UsageError(
            f"The server at `{url}` serves no family `{family}`."
            if is_unknown
            else f"The server at `{url}` serves another catalog than that of this workspace: {in_words(found)}.",
            hint="name the server of this workspace; what has changed in the catalog since then, it reads by SIGHUP",
        )
    status = rollout.rollouts_of(url, ca)
    if status.refusal:
        raise UsageError(
            f"The server at `{url}` rolls out no version: {status.refusal.rstrip('.')}.",
            hint="leave out `--url`, and a server takes the new versions over once it reads its catalog again",
        )
    for each in status.rollouts:
        if each.specification.family == family and not each.is_over:
            raise UsageError(
                f"The server at `{url}` rolls `{each.specification.new}` out already.",
                hint=f"end that first: `proteus rollout promote {family} --fully`, or `abort`",
            )


def _roll_out(made: "Retraining", how: rollout.RolloutOptions, url: str, ca: Path | None) -> None:
    """Start to roll out one version that passed: of the variant with the highest planned rate.

    Raises `ServerError` if the roll-out does not start: its hint has the commands to type.
    """
    import asyncio

    from proteus_cli.cli.servers import server_at

    async def planned_qps() -> "Mapping[str, float]":
        async with server_at(url, ca) as target:
            return await target.planned_qps(made.family)

    commands = {each.name: f"  {how.command(made.family, each.name, url, ca)}" for each in made.passed}
    try:
        rates = asyncio.run(planned_qps())
        first = max(made.passed, key=lambda each: (rates.get(each.variant, 0.0), each.accuracy)).name
        rollout.begun(url, ca, how.start_of(made.family, first))
    except ProteusError as error:
        hint = "\n".join([*filter(None, [error.hint]), "to roll them out then:", *commands.values()])
        message = f"The new versions are written, but not rolled out: {error.message}"
        raise ServerError(message, hint=hint) from error
    console.say(f"{url} rolls {first} out; how far it is: proteus rollout status --url {url}")
    if len(commands) > 1:
        console.say("one version of a family is rolled out at a time; once this one is, the others:")
        for name, command in commands.items():
            if name != first:
                console.say(command)


def _opened_cpu(workspace: "Workspace", name: str | None) -> "tuple[Device, Backend]":
    """The first CPU device that ``name`` selects, by default of all devices, and its opened backend.

    Raises `UsageError` if none is a CPU, and `DeviceUnavailable` for an unknown name.
    """
    from proteus_cli.backends.base import BuildContext
    from proteus_cli.backends.discovery import discover, select
    from proteus_cli.backends.registry import open_backend
    from proteus_cli.settings import read_settings

    devices = select(discover(read_settings(workspace.root).devices), name or "all")
    device = next((device for device in devices if device.kind == "cpu"), None)
    if device is None:
        raise UsageError("These models run on CPUs only.", hint="name a CPU device: `--device cpu0`")
    return device, open_backend(device, BuildContext(workspace.built_dir, say=console.say))


@app.command("list", cls=Command)
def list_tasks(*, workspace_dir: options.Workspace = options.WORKSPACE, json: options.Json = False) -> None:
    """List the tasks of the catalog: what they prefer, their latency target, and how accurate their variants are."""
    from proteus_cli.reporting.tables import name, number, table, text
    from proteus_cli.store import Workspace
    from proteus_cli.units import UNKNOWN
    from proteus_cli.variants.training.registered import registered

    workspace = Workspace(workspace_dir)
    tasks = [task for family in workspace.catalog().families if (task := registered(workspace, family)) is not None]
    rows = table(name("task"), number("variants"), number("accuracy"), name("prefers"), number("slo"), text("data"))
    for each in tasks:
        found = [variant.accuracy for variant in each.variants]
        accuracy = f"{min(found):.4f} to {max(found):.4f}" if found else UNKNOWN
        rows.add_row(each.family, str(len(each.variants)), accuracy, each.prefer, each.slo, each.data)
    none = ["there are no tasks; `proteus task add` trains a family of variants"]
    console.deliver(tasks, json=json, tables=[rows] if tasks else [], lines=[] if tasks else none)


@app.command(cls=Command)
def show(name: TaskName, *, workspace_dir: options.Workspace = options.WORKSPACE, json: options.Json = False) -> None:
    """Show what a task was trained on, and its variants: their accuracies, and which versions are there.

    To remove a task, take its `[[family]]` out of engines/catalog.toml, and its models out of engines/models/.
    """
    from proteus_cli.reporting.tables import name as names
    from proteus_cli.reporting.tables import number, table, text
    from proteus_cli.store import Workspace
    from proteus_cli.units import UNKNOWN
    from proteus_cli.variants.training.registered import registered

    workspace = Workspace(workspace_dir)
    task = registered(workspace, workspace.catalog().family(name))
    if task is None:
        raise UsageError(f"Family `{name}` is no task.", hint="`proteus task list` lists those that are")
    rows = table(names("variant"), number("accuracy"), number("version"), text("there are"), text("model"))
    for each in task.variants:
        there = ", ".join(map(str, each.versions)) or UNKNOWN
        rows.add_row(each.variant, f"{each.accuracy:.4f}", str(each.version or UNKNOWN), there, each.onnx)
    most = f", at most {task.rows:,} rows" if task.rows is not None else ""
    how = f"by `{task.retrain}`" if task.retrain is not None else f"by our recipe with seed {task.seed}"
    lines = [
        f"`{task.family}` prefers {task.prefer}, within {task.slo}; its eval split is {task.eval or UNKNOWN}",
        f"trained on {task.data}{most}, {how}",
    ]
    console.deliver(task, json=json, tables=[rows], lines=lines)
