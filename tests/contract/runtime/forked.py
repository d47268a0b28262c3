"""Scenarios in processes that are forked from one that has imported what all of them need: most of what they take."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from contract.runtime.running import TIMEOUT_S, command_of
from forking.program import Program, Template

SCENARIOS, NEEDED = "contract.runtime.scenarios", "contract.runtime.needed_by_scenarios"


class Forked:
    """Runs scenarios in one environment, one after the other."""

    def __init__(self, template: Template, environment: Mapping[str, str], directory: Path) -> None:
        self._template, self._environment, self._directory = template, environment, directory

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """As `running.run` does, in the environment of this one."""
        with Program(
            self._template, [SCENARIOS, *arguments], env=self._environment, cwd=self._directory, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                said = process.communicate(timeout=TIMEOUT_S)[0]
            finally:
                process.kill()
        return subprocess.CompletedProcess(arguments, process.returncode, said)


@contextmanager
def forking(environment: Mapping[str, str]) -> Iterator[Forked]:
    _, where = command_of(environment, SCENARIOS)
    template = Template((NEEDED,), where["env"], where["cwd"])
    try:
        yield Forked(template, where["env"], where["cwd"])
    finally:
        template.close()
