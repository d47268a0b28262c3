"""What rows are compared with: the eval split of a family, and the confidences that were profiled on it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from proteus_cli.arrays import Floats
from proteus_cli.backends.base import Signature
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import Profile
from proteus_cli.serving.adaptation.shifts.summaries import RowSummary
from proteus_cli.store import Workspace
from proteus_cli.store.answers import read_answers
from proteus_cli.store.eval_splits import summaries_of_rows

MAX_ROWS = 2_000
"""Of a reference; of more, as many at equal distances."""


class References:
    """Reads references from a workspace. Both take a while, and run in any thread; both raise `ArtefactError`."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def inputs(self, family: str, signature: Signature, summary: RowSummary) -> Floats | None:
        """The numbers of rows of the eval split that the catalog names; None: it names none."""
        known = next((each for each in self._workspace.catalog().families if each.name == family), None)
        path = self._workspace.eval_path(known) if known is not None else None
        if path is None:
            return None
        return np.concatenate(summaries_of_rows(path, signature.inputs, MAX_ROWS, summary.of))

    def confidences(self, key: VariantKey, profiles: Mapping[str, Profile]) -> Floats | None:
        """The confidences of a variant, one a row, by the engine that it was profiled as; None: nobody knows them."""
        for device, profile in profiles.items():
            measured = profile.of(*key)
            if measured is None or measured.eval_digest is None or not measured.engine_digest:
                continue
            for path in {self._path(device), self._path(profile.measured_on)}:
                for each in read_answers(path).values():
                    if (each.engine_digest, each.eval_digest) == (measured.engine_digest, measured.eval_digest):
                        step = -(-len(each.confidences) // MAX_ROWS)
                        return each.confidences[::step, np.newaxis].astype(np.float64)
        return None

    def _path(self, device: str) -> Path:
        return self._workspace.answers_path(device)
