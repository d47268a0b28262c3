"""The sample zoo on one core: its profile, and what its variants answered to each row of their eval splits."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from proteus_cli.arrays import Bools, Ints, Singles
from proteus_cli.backends.affinity import usable_cores
from proteus_cli.domain.catalog import Family, VariantKey
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rules import Rules
from proteus_cli.profiling.cascade_options import Option, options_of
from proteus_cli.profiling.cascades import FoundCascades, StageAnswers, cascades_of
from proteus_cli.store import Workspace
from proteus_cli.store.answers import Answers, read_answers

DEVICE = "cpu0"
Find = Callable[[str, str, Sequence[StageAnswers]], FoundCascades]
"""Finds the cascades of a family, as `cascades_of` does."""


@dataclass(frozen=True)
class Measured:
    """A family on one device: its variants' answers, by row, and the profile that has their rates."""

    family: Family
    profile: Profile
    answers: dict[str, Answers]

    @property
    def rows(self) -> int:
        return len(next(iter(self.answers.values())).correct)

    def on(self, rows: Ints, find: Find = cascades_of) -> list[Option]:
        """All options as `proteus profile` would find them if the eval split had no other rows, or as ``find`` does."""
        rates_qps = self.rates_qps
        stages = [self._stage(name, rates_qps[name], rows) for name in self.answers]
        found = find(self.family.name, "", stages)
        accuracy = {stage.variant: stage.accuracy for stage in stages}
        own = [each for each in self.profile.variants if each.family == self.family.name]
        variants = tuple(replace(each, accuracy=accuracy[each.variant]) for each in own)
        return options_of(self.family, replace(self.profile, variants=variants, cascades=found.cascades))

    def _stage(self, variant: str, rate_qps: float, rows: Ints) -> StageAnswers:
        correct = self.correct(variant)[rows]
        return StageAnswers(variant, float(correct.mean()), rate_qps, self.confidences(variant)[rows], correct)

    def correct(self, variant: str) -> Bools:
        return self.answers[variant].correct

    def confidences(self, variant: str) -> Singles:
        return self.answers[variant].confidences

    @property
    def rates_qps(self) -> dict[str, float]:
        return {
            each.variant: Rules().capacity_within(self.family.slo_s, self.profile.points_of(each)).qps
            for each in self.profile.variants
            if each.family == self.family.name
        }

    def judged(self, option: Option, rows: Ints) -> tuple[float, float]:
        """Accuracy and rate of an option on rows, which need not be those that it was found on."""
        first, rate_qps = self.correct(option.first)[rows], self.rates_qps[option.first]
        if option.second is None or option.point is None:
            return float(first.mean()), rate_qps
        deferred = self.confidences(option.first)[rows] < option.point.threshold
        accuracy = np.where(deferred, self.correct(option.second)[rows], first).mean()
        return float(accuracy), 1 / (1 / rate_qps + float(deferred.mean()) / self.rates_qps[option.second])


def measured(root: Path, rates: Profile | None = None) -> list[Measured]:
    """The families of a profiled workspace that have an eval split; with the rates of another profile."""
    workspace = Workspace(root)
    profile, answers = rates or workspace.profile(DEVICE), read_answers(workspace.answers_path(DEVICE))
    families = []
    for family in workspace.catalog().families:
        keys = [VariantKey(family.name, each.name) for each in family.variants]
        own = {key.variant: answers[key] for key in keys if key in answers}
        if len(own) == len(keys):
            families.append(Measured(family, profile, own))
    return families


def profiled(root: Path, arguments: Sequence[str]) -> Path:
    """The sample zoo in a new workspace, profiled on the first core."""
    _proteus("init", str(root))
    (root / "proteus.toml").write_text(f"[devices]\ncpu = [[{usable_cores()[0]}]]\n")
    _proteus("profile", "--workspace", str(root), *arguments)
    return root


def _proteus(*arguments: str) -> None:
    subprocess.run((sys.executable, "-m", "proteus_cli", *arguments), check=True, stdout=subprocess.DEVNULL)
