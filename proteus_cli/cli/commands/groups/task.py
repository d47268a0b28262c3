"""``proteus task``: families of variants that are trained on labelled rows."""

from typing import TYPE_CHECKING

from proteus_cli.cli import console
from proteus_cli.cli.command_line.command import Command, group_of_commands
from proteus_cli.cli.options import common
from proteus_cli.cli.options.groups import rollout
from proteus_cli.cli.options.groups import task as options
from proteus_cli.cli.options.groups.task import Preferred

if TYPE_CHECKING:
    from proteus_cli.cli.workflows.retrained_rollout import RetrainedRollout
    from proteus_cli.variants.training.retraining import Retraining

app = group_of_commands("Train families of variants from labelled rows.")


@app.command(cls=Command)
def add(
    name: options.NewTask,
    *,
    data: options.Data,
    slo: options.Slo,
    policy: options.Policy = Preferred.ACCURACY,
    models: options.Models = None,
    seed: options.Seed = 0,
    budget: options.Budget = common.unparsed("5min"),
    memory: options.Memory = common.unparsed("4GiB"),
    rows: options.Rows = 100_000,
    device: options.Device = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Train variants of rising cost, and add those that are worth it as a new family.

    Each is measured on rows that none is trained on, and within the latency target. Kept is what is more accurate
    than all that is faster. Needs the extra `train`. Run `proteus profile` and `proteus plan` afterwards.
    """
    from proteus_cli.cli.views.task_lines import added_lines, added_table
    from proteus_cli.cli.workflows.training import opened_cpu
    from proteus_cli.domain.catalog import FamilyPolicy
    from proteus_cli.store import Workspace
    from proteus_cli.variants.training.adding import add_task, new_family, read_place
    from proteus_cli.variants.training.ladder import chosen
    from proteus_cli.variants.training.processes import Limits

    workspace, kinds = Workspace(workspace_dir), chosen(models)
    place = read_place(workspace)
    family = new_family(place, name, slo, data, FamilyPolicy(policy.value), seed=seed, rows=rows)
    on = opened_cpu(workspace, device)
    with console.progress(f"training {name}") as advance:
        made = add_task(place, family, data, kinds, *on, Limits(budget, memory), advance)
    lines = added_lines(made, workspace.catalog_path)
    console.deliver(made, json=json, tables=[added_table(made)], lines=lines)


@app.command(cls=Command)
def retrain(
    name: options.TaskName,
    *,
    data: options.NewData = None,
    keep_eval: options.KeepEval = False,
    keep_catalog: options.KeepCatalog = False,
    max_loss: options.MaxLoss = 0.01,
    budget: options.Budget = common.unparsed("5min"),
    memory: options.Memory = common.unparsed("4GiB"),
    device: options.Device = None,
    url: options.ServerUrl = None,
    shadow: rollout.Shadow = None,
    canary: rollout.Canary = rollout.CANARY,
    guard: rollout.Guard = None,
    confidence: rollout.Confidence = rollout.CONFIDENCE,
    auto: rollout.Auto = False,
    most_queries: rollout.MostQueries = rollout.MOST_QUERIES,
    rollback_window: rollout.RollbackWindow = rollout.ROLLBACK_WINDOW,
    ca: common.Ca = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Train the variants of a task anew, and put the new versions in the place of those that are no better.

    Each new version is written beside the earlier one, in a directory of its number. Both are judged on the same
    rows; the exit code is 5 where a new one is less accurate by more than --max-loss, which stays out of the catalog.
    A server takes the others over by SIGHUP, or with --watch. With --url the catalog stays as it is, and that server
    rolls one of them out by steps, as by `proteus rollout start`: of the variant that is asked the most. A token is
    read from PROTEUS_TOKEN. `retrain` in `[family.task]` of the catalog names a command of your own to train with;
    else it needs the extra `train`.
    """
    from proteus_cli.cli.views.task_lines import require_passed, retrained_lines, retrained_table
    from proteus_cli.cli.workflows.retrained_rollout import checked_rollout
    from proteus_cli.cli.workflows.rollout_options import RolloutOptions
    from proteus_cli.cli.workflows.training import retrained
    from proteus_cli.store import Workspace
    from proteus_cli.variants.training.processes import GIVES_WAY, Limits
    from proteus_cli.variants.training.retraining import known_task

    in_catalog = url is None and not keep_catalog
    known = known_task(Workspace(workspace_dir), name, data)
    asked = RolloutOptions(shadow, canary, guard, confidence, auto, most_queries, rollback_window)
    server = checked_rollout(known, asked, url, ca, is_given_in_vain=in_catalog)
    made = retrained(
        known, device, Limits(budget, memory, GIVES_WAY),
        max_loss=max_loss, keeps_split=keep_eval, keeps_catalog=not in_catalog,
    )  # fmt: skip
    console.deliver(
        made,
        json=json,
        tables=[retrained_table(made, in_catalog=in_catalog)],
        lines=retrained_lines(made, in_catalog=in_catalog, by_hand=asked if server is None else None),
    )
    _roll_out(made, server)
    require_passed(made, max_loss)


def _roll_out(made: "Retraining", server: "RetrainedRollout | None") -> None:
    """Start the roll-out of a version that passed, if there are both a server and such a version, and say so."""
    from proteus_cli.cli.views.task_lines import rolled_out_lines

    if server is not None and made.passed:
        for line in rolled_out_lines(server, server.start(made), made):
            console.say(line)


@app.command("list", cls=Command)
def list_tasks(*, workspace_dir: common.Workspace = common.WORKSPACE, json: common.Json = False) -> None:
    """List the tasks of the catalog: what they prefer, their latency target, and how accurate their variants are."""
    from proteus_cli.cli.views.task_lines import tasks_table
    from proteus_cli.store import Workspace
    from proteus_cli.variants.training.registered import registered

    found = [registered(Workspace(workspace_dir), family) for family in Workspace(workspace_dir).catalog().families]
    tasks = [task for task in found if task is not None]
    if json:
        console.show_json(tasks)
    elif tasks:
        console.show(tasks_table(tasks))
    else:
        console.say("there are no tasks; `proteus task add` trains a family of variants")


@app.command(cls=Command)
def show(
    name: options.TaskName, *, workspace_dir: common.Workspace = common.WORKSPACE, json: common.Json = False
) -> None:
    """Show what a task was trained on, and its variants: their accuracies, and which versions are there.

    To remove a task, take its `[[family]]` out of engines/catalog.toml, and its models out of engines/models/.
    """
    from proteus_cli.cli.views.task_lines import task_lines, versions_table
    from proteus_cli.errors import UsageError
    from proteus_cli.store import Workspace
    from proteus_cli.variants.training.registered import registered

    workspace = Workspace(workspace_dir)
    task = registered(workspace, workspace.catalog().family(name))
    if task is None:
        raise UsageError(f"Family `{name}` is no task.", hint="`proteus task list` lists those that are")
    console.deliver(task, json=json, tables=[versions_table(task)], lines=task_lines(task))
