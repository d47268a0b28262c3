"""Cuts one ONNX model with several exits into the stages of a multi-exit model, with onnx's own extractor.

The model has the outputs of all exits, the first exit first; each exit has as many outputs as the family. It is cut at
tensors within. Stage k takes the tensors of the cut before it. It gives the outputs of exit k, under their names in the
last exit, and the tensors of the next cut.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from proteus_cli.domain.stages.exits import MAX_EXITS
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.store.models.onnx_files import content_of, inputs_of, read_graph
from proteus_cli.units import counted

Cut = tuple[str, ...]
"""The tensors that the stage after it takes."""

_AT_HINT = "write the tensors in their order: `--at features1,features2`, with `a+b` where a stage takes two"


def parse_cuts(text: str) -> tuple[Cut, ...]:
    """``"a,b+c"`` → (("a",), ("b", "c")). Raises `UsageError`."""
    cuts = tuple(tuple(name.strip() for name in cut.split("+")) for cut in text.split(","))
    names = [name for cut in cuts for name in cut]
    if not all(names) or len(set(names)) != len(names) or len(cuts) >= MAX_EXITS:
        raise UsageError(f"`--at {text}` names no 1 to {MAX_EXITS - 1} different tensors.", hint=_AT_HINT)
    return cuts


def stages_of(onnx: Any, model: Path, cuts: Sequence[Cut]) -> list[bytes]:
    """The content of the stages' files. Raises `ArtefactError` where the model can't be cut so."""
    loaded = read_graph(onnx, model, with_weights=True)
    outputs = _outputs_by_exit(model, [value.name for value in loaded.graph.output], len(cuts) + 1)
    try:
        loaded = onnx.shape_inference.infer_shapes(loaded)
        extractor = onnx.utils.Extractor(loaded)
    except Exception as error:  # of onnx: they share no base class
        raise _cannot(model, str(error)) from error
    missing = [name for cut in cuts for name in cut if name not in extractor.value_infos]
    if missing:
        raise ArtefactError(
            f"`{model}` has no tensor `{missing[0]}` of a known type.",
            hint=f"it has: {', '.join(_some(extractor.value_infos))}; {_AT_HINT}",
        )
    inputs = [tuple(value.name for value in inputs_of(loaded.graph)), *cuts]
    return [
        content_of(_stage(onnx, model, extractor, place, taken, given, outputs), model)
        for place, (taken, given) in enumerate(zip(inputs, [*cuts, ()], strict=True), start=1)
    ]


def outputs_by_exit(onnx: Any, model: Path, exits: int) -> list[tuple[str, ...]]:
    """The names of the outputs of each exit, in order. Raises `ArtefactError`."""
    loaded = read_graph(onnx, model)
    return _outputs_by_exit(model, [value.name for value in loaded.graph.output], exits)


def _outputs_by_exit(model: Path, names: Sequence[str], exits: int) -> list[tuple[str, ...]]:
    if len(names) % exits or not names:
        raise ArtefactError(
            f"`{model}` has {counted(len(names), 'output')} ({', '.join(f'`{name}`' for name in names)}), which do not "
            f"divide among {exits} exits.",
            hint=f"name one cut less than there are exits ({exits - 1} here); the outputs of all exits, those of the "
            "first exit first, are as many each",
        )
    each = len(names) // exits
    return [tuple(names[first : first + each]) for first in range(0, len(names), each)]


def _stage(
    onnx: Any, model: Path, extractor: Any, place: int, taken: Cut, given: Cut, outputs: Sequence[tuple[str, ...]]
) -> Any:
    own, names = outputs[place - 1], outputs[-1]
    try:
        stage = extractor.extract_model(list(taken), [*own, *given])
    except Exception as error:  # of onnx: they share no base class
        raise _cannot(model, f"stage {place}: {error}") from error
    if needed := list(_undefined(stage.graph)):
        raise ArtefactError(
            f"Stage {place} of `{model}` also takes `{needed[0]}`, which {_before(place)} does not hand on.",
            hint="cut where all that follows goes through; or name both tensors: `--at features+shortcut`",
        )
    _give_names(onnx, stage.graph, own, names)
    return stage


def _before(place: int) -> str:
    return "the model" if place == 1 else f"the cut before stage {place}"


def _undefined(graph: Any) -> Iterator[str]:
    """The tensors that nodes of a graph take and nothing gives."""
    known = {"", *(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)}
    for node in graph.node:
        yield from (name for name in node.input if name not in known)
        known.update(node.output)


def _give_names(onnx: Any, graph: Any, own: Sequence[str], names: Sequence[str]) -> None:
    """Have a graph give its outputs ``own`` under other names; what else it gives keeps its name."""
    for value in graph.output:
        if value.name in own and (name := names[own.index(value.name)]) != value.name:
            graph.node.append(onnx.helper.make_node("Identity", [value.name], [name]))
            value.name = name


def _some(names: Any) -> list[str]:
    listed = [f"`{name}`" for name in list(names)[:12]]
    return [*listed, "…"] if len(names) > len(listed) else listed


def _cannot(model: Path, why: str) -> ArtefactError:
    return ArtefactError(
        f"Can't cut `{model}`: {why}", hint="`check-model FILE`, a command of the package `onnx`, tells more"
    )
