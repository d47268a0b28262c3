"""``proteus study``: answers questions about models, devices and servers by measuring."""

import typer

from proteus_cli.cli.command_line.command import Command, Group
from proteus_cli.cli.commands.groups.study import all_studies, concurrency, cost, peak, report, share, startup

app = typer.Typer(
    cls=Group,
    rich_markup_mode=None,
    help="Measure what devices, models and servers can do, and what sharing costs.",
    no_args_is_help=True,
)
app.command("concurrency", cls=Command)(concurrency.concurrency)
app.command("peak", cls=Command)(peak.peak)
app.command("share", cls=Command)(share.share)
app.command("startup", cls=Command)(startup.startup)
app.command("all", cls=Command)(all_studies.all_studies)
app.command("cost", cls=Command)(cost.cost)
app.command("report", cls=Command)(report.report)
