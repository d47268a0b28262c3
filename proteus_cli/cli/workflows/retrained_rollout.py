"""The version roll-out that `proteus task retrain --url` ends in."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proteus_cli.cli.workflows.deployment.live_catalog import catalog_changes
from proteus_cli.cli.workflows.live_replay import server_at
from proteus_cli.cli.workflows.rollout_calls import RolloutCalls
from proteus_cli.cli.workflows.rollout_options import RolloutOptions
from proteus_cli.domain.catalog_changes import CatalogChange, in_words
from proteus_cli.errors import ProteusError, ServerError, UsageError
from proteus_cli.store import Workspace
from proteus_cli.variants.training.retraining import KnownTask, NewVersion, Retraining


@dataclass(frozen=True, slots=True)
class RetrainedRollout:
    """The roll-out of a new version of a family, on the server at ``url``; ``ca`` is to be trusted."""

    family: str
    options: RolloutOptions
    url: str
    ca: Path | None

    def require_possible(self, workspace: Workspace) -> None:
        """Raise where the server could not roll a version out, as far as that is known before anything is trained.

        It serves what the catalog says, else it would not find the new versions; it takes roll-outs, and none of the
        family goes on. Raises `UsageError`, and `ServerError` where it does not answer.
        """
        if found := catalog_changes(workspace, self.url, self.ca):
            raise self._serves_another(found)
        status = RolloutCalls(self.url, self.ca).status()
        if status.refusal:
            raise UsageError(
                f"The server at `{self.url}` rolls out no version: {status.refusal.rstrip('.')}.",
                hint="leave out `--url`, and a server takes the new versions over once it reads its catalog again",
            )
        for each in status.rollouts:
            if each.specification.family == self.family and not each.is_over:
                raise UsageError(
                    f"The server at `{self.url}` rolls `{each.specification.new}` out already.",
                    hint=f"end that first: `proteus rollout promote {self.family} --fully`, or `abort`",
                )

    def _serves_another(self, found: Sequence[CatalogChange]) -> UsageError:
        is_unknown = any((each.family, each.variant, each.kind) == (self.family, "", "new") for each in found)
        return UsageError(
            f"The server at `{self.url}` serves no family `{self.family}`."
            if is_unknown
            else f"The server at `{self.url}` serves another catalog than that of this workspace: {in_words(found)}.",
            hint="name the server of this workspace; what has changed in the catalog since then, it reads by SIGHUP",
        )

    def start(self, made: Retraining) -> NewVersion:
        """Start to roll out one version that passed: of the variant that the plan sends the most queries to.

        Raises `ServerError` where the roll-out does not start: its hint has the commands to type.
        """
        try:
            rates = asyncio.run(self._planned_qps())
            first = max(made.passed, key=lambda each: (rates.get(each.variant, 0.0), each.accuracy))
            RolloutCalls(self.url, self.ca).start(self.options.start_of(self.family, first.name))
        except ProteusError as error:
            hint = "\n".join([*filter(None, [error.hint]), "to roll them out then:", *self.commands(made.passed)])
            message = f"The new versions are written, but not rolled out: {error.message}"
            raise ServerError(message, hint=hint) from error
        return first

    def commands(self, versions: Iterable[NewVersion]) -> Iterator[str]:
        """What is to be typed to roll these out, a line each."""
        for each in versions:
            yield f"  {self.options.command(self.family, each.name, self.url, self.ca)}"

    async def _planned_qps(self) -> Mapping[str, float]:
        async with server_at(self.url, self.ca) as target:
            return await target.planned_qps(self.family)


def checked_rollout(
    known: KnownTask, options: RolloutOptions, url: str | None, ca: Path | None, *, is_given_in_vain: bool
) -> RetrainedRollout | None:
    """The roll-out of a new version of a task on the server at ``url``; None where no server is named.

    ``is_given_in_vain`` as in `RolloutOptions.require_possible`. Raises as both methods `require_possible` do.
    """
    options.require_possible(known.family.name, is_given_in_vain=is_given_in_vain)
    if url is None:
        return None
    server = RetrainedRollout(known.family.name, options, url, ca)
    server.require_possible(known.workspace)
    return server
