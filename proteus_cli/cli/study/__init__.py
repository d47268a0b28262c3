"""``proteus study``: answers questions about models, devices and servers by measuring."""

from proteus_cli.cli.command_line.command import Command, group_of_commands
from proteus_cli.cli.study import all_studies, concurrency, cost, peak, share, startup

app = group_of_commands("Measure what devices, models and servers can do, and what sharing costs.")
app.command("concurrency", cls=Command)(concurrency.concurrency)
app.command("peak", cls=Command)(peak.peak)
app.command("share", cls=Command)(share.share)
app.command("startup", cls=Command)(startup.startup)
app.command("all", cls=Command)(all_studies.all_studies)
app.command("cost", cls=Command)(cost.cost)
app.command("report", cls=Command)(all_studies.report)
