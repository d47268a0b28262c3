"""Checks before each load that model files are the ones that were measured."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ArtefactError, EngineError
from proteus_cli.store import ModelStamp, model_digest, model_parts, model_stamp

_HINT = "put back the file that was measured, or `proteus profile` and `proteus plan` again and start the server anew"


class ModelFiles:
    """The ONNX files of a server, which were compared with the profiles at its start; later ones may be added.

    A file with an unchanged `ModelStamp` counts as unchanged; otherwise its content is read, in a thread. The
    constructor raises `ArtefactError` where a file is missing.
    """

    def __init__(self, models: Mapping[VariantKey, Path], profiles: Mapping[str, Profile]) -> None:
        self._profiles = profiles
        self._models = dict[VariantKey, Path]()
        self._parts = dict[VariantKey, list[Path]]()
        self._known = dict[VariantKey, ModelStamp]()
        self.look_at(models)
        self._known |= {key: model_stamp(parts) for key, parts in self._parts.items()}

    def look_at(self, models: Mapping[VariantKey, Path]) -> None:
        """Other files, whose content is read before they are loaded: they may have changed since they were measured.

        May run in any thread. Raises `ArtefactError`.
        """
        self._parts |= {key: model_parts(model) for key, model in models.items()}
        self._models |= models
        for key in models:
            self._known.pop(key, None)

    async def require_measured(self, key: VariantKey) -> ModelStamp:
        """The present stamp. Raises `EngineError` where the files are gone, or have changed since the measurement."""
        model = self._models[key]
        stamp = model_stamp(self._parts[key])
        if stamp == self._known.get(key):
            return stamp
        if not stamp:
            raise EngineError(f"`{model}`, or a file of its weights, is gone.", hint=_HINT)
        try:
            found = await asyncio.to_thread(model_digest, model)
        except ArtefactError as error:
            raise EngineError(error.message, hint=_HINT) from error
        if found not in self._measured(key):
            raise EngineError(f"`{model}` is not the file that was measured.", hint=_HINT)
        self.require_unchanged(key, stamp)
        self._known[key] = stamp
        return stamp

    def _measured(self, key: VariantKey) -> set[str | None]:
        """The digests that a variant was measured with."""
        measured = (profile.of(*key) for profile in self._profiles.values())
        return {each.model_digest for each in measured if each is not None}

    def require_unchanged(self, key: VariantKey, stamp: ModelStamp) -> None:
        """Raise `EngineError` where the stamp has changed: it is unknown which content was loaded."""
        if model_stamp(self._parts[key]) != stamp:
            raise EngineError(f"`{self._models[key]}` was changed while it was loaded.", hint=_HINT)
