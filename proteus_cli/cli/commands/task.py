"""``proteus task``: families of variants that are trained of labelled rows."""

from typing import TYPE_CHECKING

import typer

from proteus_cli.cli import console
from proteus_cli.cli.command import Command, Group
from proteus_cli.cli.options import common
from proteus_cli.cli.options import task as options
from proteus_cli.cli.options.task import Preferred

if TYPE_CHECKING:
    from proteus_cli.backends.base import Backend
    from proteus_cli.domain.device import Device
    from proteus_cli.store import Workspace

app = typer.Typer(
    cls=Group, rich_markup_mode=None, help="Train families of variants of labelled rows.", no_args_is_help=True
)


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
    from proteus_cli.domain.family_policy import FamilyPolicy
    from proteus_cli.store import Workspace
    from proteus_cli.variants.training.adding import add_task, new_family, read_place
    from proteus_cli.variants.training.ladder import chosen
    from proteus_cli.variants.training.processes import Limits

    workspace, kinds = Workspace(workspace_dir), chosen(models)
    place = read_place(workspace)
    family = new_family(place, name, slo, data, FamilyPolicy(policy.value), seed=seed, rows=rows)
    on = _cpu(workspace, device)
    with console.progress(f"training {name}") as advance:
        made = add_task(place, family, data, kinds, *on, Limits(budget, memory), advance)
    if json:
        console.show_json(made)
        return
    console.show(added_table(made))
    for line in added_lines(made):
        console.say(line)
    console.say(f"wrote {workspace.catalog_path}; next: proteus profile, proteus plan")


def _cpu(workspace: "Workspace", name: str | None) -> "tuple[Device, Backend]":
    """The CPU device to measure on."""
    from proteus_cli.backends.base import BuildContext
    from proteus_cli.backends.discovery import discover, select
    from proteus_cli.backends.registry import open_backend
    from proteus_cli.errors import UsageError
    from proteus_cli.settings import read_settings

    devices = select(discover(read_settings(workspace.root).devices), name or "all")
    device = next((device for device in devices if device.kind == "cpu"), None)
    if device is None:
        raise UsageError("These models run on CPUs only.", hint="name a CPU device: `--device cpu0`")
    return device, open_backend(device, BuildContext(workspace.built_dir, say=console.say))
