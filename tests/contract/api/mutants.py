"""Copies of a module that are wrong in one place: what mypy says nothing about, it doesn't check."""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from contract.api.sites import Site, Span

EXTRA = 12
"""More positional arguments than any function of the bindings takes."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A module's text after one change."""

    site: Site
    change: str
    text: str

    def __str__(self) -> str:
        return f"{self.site}: {self.change}"


def mutants(text: str, sites: Iterable[Site]) -> Iterator[Mutant]:
    """All wrong copies of a module at these sites, each with one change. Raises `LookupError` for a site elsewhere."""
    nodes = _nodes(text)
    for site in sorted(sites, key=lambda site: (site.span, site.is_call)):
        key = (site.span, site.is_call)
        if key not in nodes:
            raise LookupError(f"{site} isn't in the text")
        index, node = nodes[key]
        for change in _changes(node):
            yield Mutant(site, change, _changed(text, index, change))


def rewritten(text: str) -> str:
    """The text as a mutant of it is written, without a change."""
    return ast.unparse(ast.parse(text))


def annotations(text: str, aliases: Iterable[str], module: str) -> Iterator[Site]:
    """Attributes of a module of the bindings within annotations: for mypy these are types, not expressions."""
    for node in ast.walk(ast.parse(text)):
        for part in _annotations(node):
            for attribute in ast.walk(part):
                if isinstance(attribute, ast.Attribute) and ast.unparse(attribute.value) in aliases:
                    yield Site(module, _span(attribute), is_call=False, name=attribute.attr)


def _annotations(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
        yield node.annotation
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
        yield node.returns


def _nodes(text: str) -> dict[tuple[Span, bool], tuple[int, ast.Attribute | ast.Call]]:
    """Attributes and calls by where they are, each with its place in the walk over the tree."""
    return {
        (_span(node), isinstance(node, ast.Call)): (index, node)
        for index, node in enumerate(ast.walk(ast.parse(text)))
        if isinstance(node, ast.Attribute | ast.Call)
    }


def _span(node: ast.expr) -> Span:
    return (node.lineno, node.col_offset, node.end_lineno or 0, node.end_col_offset or 0)


def _changes(node: ast.Attribute | ast.Call) -> Iterator[str]:
    if isinstance(node, ast.Attribute):
        yield "attribute renamed"
        return
    yield "unknown keyword added"
    yield "superfluous arguments"
    for keyword in node.keywords:
        if keyword.arg is not None:
            yield f"keyword {keyword.arg} renamed"


@cache  # each release asks for the same ones
def _changed(text: str, index: int, change: str) -> str:
    tree = ast.parse(text)
    node = list(ast.walk(tree))[index]
    if isinstance(node, ast.Attribute):
        node.attr += "_renamed"
    elif isinstance(node, ast.Call):
        _change_call(node, change)
    return ast.unparse(tree)


def _change_call(call: ast.Call, change: str) -> None:
    if change == "unknown keyword added":
        call.keywords.append(ast.keyword("no_such_keyword", ast.Constant(0)))
    elif change == "superfluous arguments":
        call.args.extend(ast.Constant(0) for _ in range(EXTRA))
    else:
        for keyword in call.keywords:
            if change == f"keyword {keyword.arg} renamed":
                keyword.arg = f"{keyword.arg}_renamed"
