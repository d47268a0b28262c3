"""Discriminators: models that tell from what a variant takes and gives how sure it is of its answer.

A discriminator is put behind the model of each variant of its family, as more nodes of the same graph. It runs where
the model runs, in the same call, and its time is a part of the model's.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from proteus_cli.domain.stages.cascade import DISCRIMINATOR_OUTPUT
from proteus_cli.errors import ArtefactError
from proteus_cli.store.models.onnx_files import inputs_of, read_graph, tensor_names

_HINT = "docs/models.md says what a discriminator is"
_PREFIX = "discriminator/"  # of its names in the joined graph; with underscores where a model has such names


def put_behind(onnx: Any, model: Path, loaded: Any, discriminator: Path) -> None:
    """Join ``discriminator`` to ``loaded``, the graph of ``model``, which is changed in its place.

    It takes tensors of the model by their names: inputs and outputs. One that takes a single tensor, of no such name,
    takes the first output. Its output is `DISCRIMINATOR_OUTPUT` of the joined model. Raises `ArtefactError`.
    """
    _Join(onnx, model, loaded, discriminator).join()


class _Join:
    def __init__(self, onnx: Any, model: Path, loaded: Any, discriminator: Path) -> None:
        self._onnx, self._model, self._loaded, self._path = onnx, model, loaded, discriminator
        self._behind = read_graph(onnx, discriminator, with_weights=True)

    def join(self) -> None:
        outputs = self._behind.graph.output
        if len(outputs) != 1:
            self._refuse(f"it has {len(outputs)} outputs; there must be one, with a number for each row")
        names = set(tensor_names(self._loaded.graph))
        if DISCRIMINATOR_OUTPUT in names:
            self._refuse(f"`{self._model}` has a tensor `{DISCRIMINATOR_OUTPUT}` already")
        if self._behind.functions or self._loaded.functions:
            self._refuse("models with functions of their own can't be joined; export it without")
        self._join_opsets()
        prefix = _PREFIX
        while any(name.startswith(prefix) for name in names):
            prefix += "_"
        taken = {prefix + value.name: self._taken_by(value) for value in inputs_of(self._behind.graph)}
        given = prefix + outputs[0].name
        behind = self._onnx.compose.add_prefix(self._behind, prefix).graph
        make_node = self._onnx.helper.make_node
        nodes = [make_node("Identity", [name], [own]) for own, name in taken.items()]
        graph = self._loaded.graph
        graph.node.extend([*nodes, *behind.node, make_node("Identity", [given], [DISCRIMINATOR_OUTPUT])])
        graph.initializer.extend(behind.initializer)
        graph.sparse_initializer.extend(behind.sparse_initializer)
        output = behind.output[0]
        output.name = DISCRIMINATOR_OUTPUT
        graph.output.append(output)
        self._loaded.ir_version = max(self._loaded.ir_version, self._behind.ir_version)

    def _taken_by(self, value: Any) -> str:
        """The tensor of the model that an input of the discriminator is."""
        graph = self._loaded.graph
        tensors = {each.name: each for each in (*inputs_of(graph), *graph.output)}
        is_only = len(inputs_of(self._behind.graph)) == 1
        found = tensors.get(value.name) or (graph.output[0] if is_only else None)
        if found is None:
            self._refuse(f"it takes `{value.name}`; the model's inputs and outputs are {', '.join(tensors)}")
        kind, own = found.type.tensor_type.elem_type, value.type.tensor_type.elem_type
        if kind != own:
            name_of = self._onnx.TensorProto.DataType.Name
            self._refuse(f"its input `{value.name}` is {name_of(own)}; `{found.name}` of the model is {name_of(kind)}")
        return str(found.name)

    def _join_opsets(self) -> None:
        """Both graphs get the opsets of the model; the discriminator is converted where its own is another."""
        opsets = dict(_opsets(self._loaded))
        own = dict(_opsets(self._behind))
        if "" in own and "" in opsets and own[""] != opsets[""]:
            try:
                self._behind = self._onnx.version_converter.convert_version(self._behind, opsets[""])
            except Exception as error:  # noqa: BLE001 - of onnx, or of its C++ part: they share no base class
                self._refuse(f"it is of opset {own['']}, the model of {opsets['']}, and it can't be converted: {error}")
            own[""] = opsets[""]
        for domain, version in own.items():
            if opsets.setdefault(domain, version) != version:
                self._refuse(f"it is of opset {version} of {domain}; the model of {opsets[domain]}")
        del self._loaded.opset_import[:]
        self._loaded.opset_import.extend(self._onnx.helper.make_opsetid(*each) for each in opsets.items())

    def _refuse(self, problem: str) -> NoReturn:
        raise ArtefactError(f"`{self._path}` can't be put behind `{self._model}`: {problem}.", hint=_HINT)


def _opsets(model: Any) -> Iterator[tuple[str, int]]:
    """By domain, where ONNX's own is ""."""
    for each in model.opset_import:
        yield "" if each.domain == "ai.onnx" else each.domain, each.version
