"""Version roll-outs as they go on: one picture on a terminal, else a line for each change."""

import time
from collections.abc import Callable, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from proteus_cli.cli import console as cli_console
from proteus_cli.cli.views.rollout_tables import progress_line, rollout_lines, rollout_table
from proteus_cli.domain.rollouts import RolloutStatus

EVERY_S = 2.0
"""Between two looks."""


def watch_rollouts(
    look: Callable[[], Sequence[RolloutStatus]],
    console: Console | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Show what ``look`` finds, until all roll-outs are over. Raises what that raises."""
    shown = console or Console(highlight=False, emoji=False, markup=False)
    found = look()
    if not found:
        cli_console.say("no version is rolled out")
        return
    if shown.is_terminal:
        with Live(_picture(found), console=shown, auto_refresh=False) as live:
            while not _are_over(found):
                sleep(EVERY_S)
                found = look()
                live.update(_picture(found), refresh=True)
        return
    told = dict[str, str]()
    while True:
        for each in found:
            line = progress_line(each)
            if told.get(each.specification.family) != line:
                told[each.specification.family] = line
                shown.print(line, soft_wrap=True)
        if _are_over(found):
            return
        sleep(EVERY_S)
        found = look()


def _are_over(found: Sequence[RolloutStatus]) -> bool:
    return all(each.is_over for each in found)


def _picture(found: Sequence[RolloutStatus]) -> Group:
    lines = [line for each in found for line in rollout_lines(each)]
    return Group(rollout_table(found), Text("\n".join(lines)))
