"""The options of a version roll-out on a command line."""

import shlex
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec

from proteus_cli.cli.command_line.names import flag
from proteus_cli.cli.options.groups import rollout as options
from proteus_cli.domain.rollouts import DEFAULT_GUARD, Term
from proteus_cli.errors import BadRequest, UsageError
from proteus_cli.input_files import decoded
from proteus_cli.serving.adaptation.rollouts.requests import RolloutStart
from proteus_cli.units import parse_duration, parse_share


@dataclass(frozen=True, slots=True)
class RolloutOptions:
    """The options that `proteus rollout start` and `proteus task retrain` share, by their names."""

    shadow: str | None = None
    canary: str = options.CANARY
    guard: str | None = None
    confidence: str = options.CONFIDENCE
    auto: bool = False
    most_queries: int = options.MOST_QUERIES
    rollback_window: str = options.ROLLBACK_WINDOW

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms of the guard. Raises `ArtefactError` where they are no JSON, or no terms."""
        if self.guard is None:
            return DEFAULT_GUARD
        hint = 'write it like `[{"metric": "errors", "value": 0.01}]`; docs/lifecycle.md lists the terms'
        decode = msgspec.json.Decoder(tuple[Term, ...]).decode
        return decoded(self.guard.encode(), decode, f"`--guard {self.guard}` is no guard", hint=hint)

    def start_of(self, family: str, version: str) -> RolloutStart:
        """The body of the request. Raises `UsageError` for an invalid quantity or guard."""
        return RolloutStart(
            family, version,
            shadow=parse_share(self.shadow) if self.shadow is not None else 0.0,
            canary=tuple(parse_share(each) for each in self.canary.split(",")), guard=self.terms,
            confidence=parse_share(self.confidence), auto=self.auto,
            rollback_window_s=parse_duration(self.rollback_window), most_queries=self.most_queries,
        )  # fmt: skip

    def require_possible(self, family: str, *, is_given_in_vain: bool) -> None:
        """Raise `UsageError` where a server would refuse to roll anything out so, or nothing will be rolled out."""
        if is_given_in_vain and self != RolloutOptions():
            raise UsageError(
                "There is no roll-out that these options could be about.",
                hint="`--url` names the server that is to roll the new version out; "
                "`--keep-catalog` shows the command that does",
            )
        try:
            self.start_of(family, "").specification("old", "new")
        except BadRequest as error:
            hint = "`proteus rollout start --help` says how a version can be rolled out"
            raise UsageError(f"No version can be rolled out so: {error.message.rstrip('.')}.", hint=hint) from error

    def command(self, family: str, version: str, url: str | None = None, ca: Path | None = None) -> str:
        """The command that starts the same roll-out, to be typed into a shell."""
        words = ["proteus", "rollout", "start", family, version]
        for each in fields(self):
            value = getattr(self, each.name)
            if value != each.default:
                words += [flag(each.name)] if value is True else [flag(each.name), str(value)]
        words += ["--url", url] if url is not None else []
        words += ["--ca", str(ca)] if ca is not None else []
        return shlex.join(words)
