"""The answers of versions of models to their eval splits. The catalog names one version of each variant.

`profiles/<device>.answers.npz` has the answers of the named versions: requests are compared with them (shifts), and
cascades are computed from them. `engines/versions/<device>.answers.npz` has the answers of other versions: one that was
measured for a roll-out, and once the catalog names it, the one before. Answers that can't be read are left alone and
logged: `proteus profile` can measure them anew.
"""

import logging
from collections.abc import Mapping, Sequence

from proteus_cli.domain.capacity import capacity
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.domain.stages.cascade import CascadeProfile
from proteus_cli.errors import ArtefactError
from proteus_cli.profiling.cascades import StageAnswers, cascades_of
from proteus_cli.store import Workspace
from proteus_cli.store.answers import Answers, read_answers, write_answers

log = logging.getLogger("proteus.rollouts")


def keep_answers(
    workspace: Workspace, copy: Workspace, device: str, measured_on: str, measured: VariantProfile
) -> None:
    """Keep what a version has answered that was measured in a copy of the workspace."""
    try:
        for path in (copy.answers_path(measured_on), copy.answers_path(device)):
            found = read_answers(path).get(measured.key)
            if found is not None and _are_of(found, measured):
                kept = workspace.version_answers_path(device)
                write_answers(kept, read_answers(kept) | {measured.key: found})
                return
    except ArtefactError as error:
        log.warning("the answers of `%s` on %s are not kept: %s", measured.variant, device, error.message)


def use_answers(workspace: Workspace, device: str, measured: VariantProfile | None) -> None:
    """Have the answers beside a profile be of the version that it tells of, if they were kept; the others are kept."""
    path, kept_path = workspace.answers_path(device), workspace.version_answers_path(device)
    if measured is None:
        return
    try:
        here, kept = read_answers(path), read_answers(kept_path)
        found, before = kept.pop(measured.key, None), here.get(measured.key)
        if found is None or not _are_of(found, measured) or (before is not None and _are_of(before, measured)):
            return
        write_answers(path, here | {measured.key: found})
        write_answers(kept_path, kept if before is None else kept | {measured.key: before})
    except ArtefactError as error:
        log.warning("%s has no answers of `%s`: %s", device, measured.variant, error.message)


def cascades_with(workspace: Workspace, device: str, profile: Profile, key: VariantKey) -> tuple[CascadeProfile, ...]:
    """The cascades of a variant, by what is known of the answers of its family; ``profile`` is what a device is to say.

    None where the answers can't be read.
    """
    measured = profile.of(*key)
    if measured is None or measured.eval_digest is None:
        return ()
    try:
        paths = (workspace.answers_path(profile.measured_on), workspace.answers_path(device))
        files = [read_answers(path) for path in (*paths, workspace.version_answers_path(device))]
    except ArtefactError as error:
        log.warning("no cascades of `%s` on %s: %s", key.variant, device, error.message)
        return ()
    stages = [
        StageAnswers(each.variant, each.accuracy, capacity(each.points).qps, of.confidences, of.correct, of.classes)
        for each in profile.variants
        if each.family == key.family and each.points and each.eval_digest == measured.eval_digest
        if (of := _of(files, each)) is not None
    ]
    found = cascades_of(key.family, measured.eval_digest, stages).cascades
    return tuple(each for each in found if key.variant in {each.first, each.second})


def _of(files: Sequence[Mapping[VariantKey, Answers]], measured: VariantProfile) -> Answers | None:
    """The answers of a variant as it was measured, where one of the files has them."""
    answers = (each.get(measured.key) for each in files)
    return next((each for each in answers if each is not None and _are_of(each, measured)), None)


def _are_of(answers: Answers, measured: VariantProfile) -> bool:
    return (answers.engine_digest, answers.eval_digest) == (measured.engine_digest, measured.eval_digest)
