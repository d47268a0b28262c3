"""The hand-written stubs of pycuda beside the real module, whose signatures only stand in its docstrings."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Parameter:
    """``name`` is empty where a call can't use it."""

    name: str
    is_optional: bool


@dataclass(frozen=True, slots=True)
class Signature:
    """How something is called, and the class that comes back: ``object`` where that isn't told."""

    parameters: tuple[Parameter, ...]
    returns: str = "object"


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that the stubs say there is; ``signature`` (without `self`) is None where it isn't called."""

    name: str
    signature: Signature | None = None
    takes_self: bool = False
    bases: tuple[str, ...] = ()


def entries(stub: Path) -> Iterator[Entry]:
    """All classes, attributes, methods and functions of a stub, by their dotted names."""
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            yield _function(node, "", in_class=False)
        if isinstance(node, ast.ClassDef):
            yield Entry(node.name, bases=tuple(base.id for base in node.bases if isinstance(base, ast.Name)))
            yield from _members(node)


def _members(node: ast.ClassDef) -> Iterator[Entry]:
    for member in node.body:
        if isinstance(member, ast.AnnAssign):
            yield Entry(f"{node.name}.{ast.unparse(member.target)}")
        if isinstance(member, ast.FunctionDef):
            decorators = [ast.unparse(decorator) for decorator in member.decorator_list]
            if "property" in decorators:
                yield Entry(f"{node.name}.{member.name}")
            else:
                yield _function(member, f"{node.name}.", in_class="staticmethod" not in decorators)


def _function(node: ast.FunctionDef, prefix: str, *, in_class: bool) -> Entry:
    arguments = [*node.args.posonlyargs, *node.args.args]
    first_optional = len(arguments) - len(node.args.defaults)
    parameters = tuple(
        Parameter("" if place < len(node.args.posonlyargs) else argument.arg, place >= first_optional)
        for place, argument in enumerate(arguments)
    )
    returns = re.split(r"[\[ ]", ast.unparse(node.returns))[0] if node.returns else "object"
    return Entry(f"{prefix}{node.name}", Signature(parameters[in_class:], returns), in_class)


def signatures(docstring: str) -> list[Signature]:
    """What Boost.Python wrote: ``record( (Event)arg1 [, (object)stream=None]) -> Event :`` for each overload."""
    found = re.findall(r"^\w+\((.*)\) -> (.*?) ?:$", docstring, re.MULTILINE)
    return [Signature(tuple(_parameters(text)), returns) for text, returns in found]


def _parameters(text: str) -> Iterator[Parameter]:
    required, _, optional = text.partition("[")
    for part, is_optional in ((required, False), (optional, True)):
        for name in re.findall(r"\([\w.:]+\)(\w+)", part):
            yield Parameter("" if re.fullmatch(r"arg\d+", name) else name, is_optional)


def fits(entry: Entry, real: list[Signature]) -> bool:
    """Whether calls that the stub allows are calls that the real one takes, in one of its forms."""
    return any(_fits(entry, form) for form in real)


def _fits(entry: Entry, form: Signature) -> bool:
    """Names may be left out of the stubs, and optional parameters at the end; nothing else."""
    if entry.signature is None or form.returns not in {"object", entry.signature.returns}:
        return False
    ours, theirs = entry.signature.parameters, form.parameters[entry.takes_self :]
    if len(ours) > len(theirs) or not all(parameter.is_optional for parameter in theirs[len(ours) :]):
        return False
    return all(o.name in {"", t.name} and o.is_optional == t.is_optional for o, t in zip(ours, theirs, strict=False))
