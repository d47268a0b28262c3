"""What pybind11-stubgen wrote, made into stubs that mypy can read and that say what the bindings mean.

Each rule says how many places it changed. Which find nothing is known of each release; anything else is an error, as
then the bindings are not what the rules were written for.
"""

import ast
import keyword
import re
from collections.abc import Callable, Iterator, Mapping

HEADER = """\
# mypy: ignore-errors
from builtins import bool as _bool
import collections.abc
import typing
import typing_extensions
import numpy
_DimsLike = typing.Union["Dims", tuple[int, ...], list[int]]
__version__: str
def nptype(trt_type: DataType) -> type[numpy.generic]: ...
"""
"""Its last two lines are what we use of the part of the bindings that is written in Python."""

NULLABLE = frozenset(
    {
        "build_serialized_network",
        "deserialize_cuda_engine",
        "create_execution_context",
        "create_timing_cache",
        "get_timing_cache",
    }
)
"""What returns a null pointer where it fails."""

RETURNS = {"get_error": "ParserError"}
"""Classes that docstrings call by their names in C++."""

MEMBERS = {
    "Dims": "def __iter__(self) -> typing.Iterator[int]: ...",
    "IHostMemory": "def __buffer__(self, flags: int, /) -> memoryview: ...",
}
"""What C++ offers to Python's protocols rather than as a method with a docstring."""

WHOLE_NUMBERS = "whole numbers are `int`"

Rule = Callable[[ast.Module], int]


def patched(text: str, idle: frozenset[str] = frozenset()) -> str:
    """The stubs of the module ``tensorrt``. Raises `LookupError` where other rules than ``idle`` find nothing."""
    tree = ast.parse("\n".join(_readable(line) for line in text.splitlines()))
    found_idle = {name for name, rule in RULES.items() if rule(tree) == 0}
    if found_idle != idle:
        raise LookupError(f"rules that find nothing are {sorted(found_idle)}, where {sorted(idle)} were known to")
    return HEADER + ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _readable(line: str) -> str:
    """Python, where pybind11 lets parameters be called like keywords, and optional ones come before others."""
    definition = re.fullmatch(r"(\s*def \w+\()(.*)(\)(?: -> .*)?:.*)", line)
    if definition is None:
        return line
    head, parameters, tail = definition.groups()
    return head + ", ".join(_ordered(_split(parameters))) + tail


def _ordered(parameters: list[str]) -> Iterator[str]:
    has_optional = False
    for parameter in parameters:
        name = re.match(r"\w*", parameter)
        named = re.sub(r"^\w+", r"\g<0>_", parameter) if name and keyword.iskeyword(name[0]) else parameter
        is_optional = " = " in named
        has_optional = has_optional or is_optional
        yield named if is_optional or not has_optional or named.startswith(("*", "/")) else f"{named} = ..."


def _split(parameters: str) -> list[str]:
    """At the commas that are in no bracket."""
    parts, depth = [""], 0
    for letter in parameters:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _without_docstrings(tree: ast.Module) -> int:
    count = 0
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Expr(ast.Constant(...))]
            count += 1
    return count


def _replaced(wanted: Callable[[ast.expr], bool], by: str) -> Rule:
    """Replace types, or parts of them."""

    def rule(tree: ast.Module) -> int:
        swap = _Swap(wanted, by)
        for node in ast.walk(tree):
            if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
                node.annotation = swap.swapped(node.annotation)
            if isinstance(node, ast.FunctionDef) and node.returns is not None:
                node.returns = swap.swapped(node.returns)
        return swap.count

    return rule


class _Swap(ast.NodeTransformer):
    def __init__(self, wanted: Callable[[ast.expr], bool], by: str) -> None:
        self._wanted, self._by, self.count = wanted, by, 0

    def swapped(self, annotation: ast.expr) -> ast.expr:
        found = self.visit(annotation)
        assert isinstance(found, ast.expr)
        return found

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.expr) and self._wanted(node):
            self.count += 1
            return _expression(self._by)
        return self.generic_visit(node)


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _is(*texts: str) -> Callable[[ast.expr], bool]:
    return lambda node: isinstance(node, ast.Name | ast.Attribute | ast.Constant) and ast.unparse(node) in texts


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def _parameters(tree: ast.Module) -> Iterator[ast.arg]:
    return (parameter for function in _functions(tree) for parameter in function.args.args)


def _tuples_for_dims(tree: ast.Module) -> int:
    """pybind11 takes tuples and lists of numbers where a `Dims` is asked for."""
    dims = [parameter for parameter in _parameters(tree) if _is_named(parameter.annotation, "Dims")]
    for parameter in dims:
        parameter.annotation = _expression("_DimsLike")
    return len(dims)


def _optional_for_none(tree: ast.Module) -> int:
    """A parameter that is None by default takes None."""
    count = 0
    for function in _functions(tree):
        defaults = function.args.defaults
        for parameter, default in zip(function.args.args[-len(defaults) :] if defaults else [], defaults, strict=True):
            if isinstance(default, ast.Constant) and default.value is None and parameter.annotation is not None:
                parameter.annotation = _expression(f"{ast.unparse(parameter.annotation)} | None")
                count += 1
    return count


def _nullable(tree: ast.Module) -> int:
    count = 0
    for function in _functions(tree):
        if function.name in NULLABLE and function.returns is not None:
            function.returns = _expression(f"{ast.unparse(function.returns)} | None")
            count += 1
    return count


def _returns(tree: ast.Module) -> int:
    found = [function for function in _functions(tree) if function.name in RETURNS]
    for function in found:
        function.returns = _expression(RETURNS[function.name])
    return len(found)


def _members(tree: ast.Module) -> int:
    """Not one of them may be missing."""
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for name, member in MEMBERS.items():
        classes[name].body.extend(ast.parse(member).body)
    return len(MEMBERS)


def _is_named(annotation: ast.expr | None, name: str) -> bool:
    return isinstance(annotation, ast.Name) and annotation.id == name


RULES: Mapping[str, Rule] = {
    "docstrings are left out": _without_docstrings,
    "`bool` is a data type of TensorRT": _replaced(_is("bool"), "_bool"),
    "what has no name in Python may be anything": _replaced(_is("..."), "typing.Any"),
    WHOLE_NUMBERS: _replaced(_is("typing.SupportsInt", "typing.SupportsIndex"), "int"),
    "None by default": _optional_for_none,
    "tuples for dimensions": _tuples_for_dims,
    "null pointers": _nullable,
    "names from C++": _returns,
    "Python's protocols": _members,
}
