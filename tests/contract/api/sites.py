"""Where our code touches the bindings: told by the types that mypy found, not by how the code looks."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from contract.api.checking import BINDINGS
from mypy.nodes import CallExpr, FuncDef, MemberExpr, MypyFile, RefExpr, TypeInfo
from mypy.traverser import NameAndMemberCollector
from mypy.types import AnyType, CallableType, FunctionLike, Instance, LiteralType, TypeType, UnionType, get_proper_type

Span = tuple[int, int, int, int]
"""First line and column, last line and column, as `ast` counts them."""


class Receiver(Enum):
    """What stands before the dot, or before the parenthesis."""

    BINDING = "of the bindings"
    OTHER = "ours, or of another library"
    ANY = "anything: mypy checks nothing here"
    UNSEEN = "in code that mypy takes for unreachable"


@dataclass(frozen=True, slots=True)
class Site:
    """An attribute or a call, in a module."""

    module: str
    span: Span
    is_call: bool
    name: str

    def __str__(self) -> str:
        return f"{self.module}:{self.span[0]}:{self.span[1]} {'call of ' if self.is_call else ''}`{self.name}`"


@dataclass(frozen=True, slots=True)
class Override:
    """A method of ours in a class that derives from the bindings; ``theirs`` is None where they have no such method."""

    module: str
    line: int
    name: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...] | None

    @property
    def fits(self) -> bool:
        """mypy lets parameters have other names; whoever passes them by name doesn't."""
        return self.ours == self.theirs

    def __str__(self) -> str:
        return f"{self.module}:{self.line} `{self.name}{self.ours}` overrides {self.theirs}"


def aliases(tree: MypyFile) -> set[str]:
    """What a module calls the modules of the bindings."""
    modules = ((name, symbol.node) for name, symbol in tree.names.items())
    return {name for name, node in modules if isinstance(node, MypyFile) and _is_binding(node.fullname)}


def receivers(module: str, tree: MypyFile, types: Mapping[Any, Any]) -> dict[Site, Receiver]:
    """All attributes and calls of a module that was checked, and what their receivers are."""
    found = NameAndMemberCollector()
    tree.accept(found)
    callees = {*found.name_exprs, *found.member_exprs}
    calls = [node for node in types if isinstance(node, CallExpr) and node.callee in callees and node.analyzed is None]
    attributes = {_site(module, node, node.name): _receiver(node, types) for node in found.member_exprs}
    return attributes | {_site(module, node, node.callee.name): _callee(node.callee, types) for node in calls}


def overrides(module: str, tree: MypyFile) -> list[Override]:
    """Public methods of the classes that derive from the bindings, wherever in a module these are."""
    classes = [symbol.node for symbol in tree.names.values() if isinstance(symbol.node, TypeInfo)]
    derived = [info for info in classes if info.module_name == tree.fullname and _base_of_bindings(info)]
    methods = [symbol.node for info in derived for symbol in info.names.values()]
    return [
        Override(module, method.line, method.name, tuple(method.arg_names), _parameters(method))
        for method in methods
        if isinstance(method, FuncDef) and not method.name.startswith("_")
    ]


def _site(module: str, node: Any, name: str) -> Site:
    span = (node.line, node.column, node.end_line, node.end_column)
    return Site(module, span, isinstance(node, CallExpr), name)


def _receiver(member: MemberExpr, types: Mapping[Any, Any]) -> Receiver:
    named = member.expr.node if isinstance(member.expr, RefExpr) else None
    if isinstance(named, MypyFile | TypeInfo):  # modules and classes have no type of their own before a dot
        module = named.fullname if isinstance(named, MypyFile) else _owner(named, member.name).module_name
        return Receiver.BINDING if _is_binding(module) else Receiver.OTHER
    if member.expr not in types:
        return Receiver.UNSEEN
    return _kind(types[member.expr], member.name)


def _callee(callee: Any, types: Mapping[Any, Any]) -> Receiver:
    if callee not in types:
        return Receiver.UNSEEN
    if isinstance(callee, MemberExpr) and not isinstance(get_proper_type(types[callee]), AnyType):
        return _receiver(callee, types)
    return _kind(types[callee], "")


def _kind(kind: Any, attribute: str) -> Receiver:
    """What a type is, when an attribute of it is asked for."""
    kind = get_proper_type(kind)
    if isinstance(kind, UnionType):
        kinds = {_kind(item, attribute) for item in kind.items}
        return next((k for k in (Receiver.ANY, Receiver.BINDING) if k in kinds), Receiver.OTHER)
    if isinstance(kind, AnyType):
        is_of_untyped_library = kind.missing_import_name and not _is_binding(kind.missing_import_name)
        return Receiver.OTHER if is_of_untyped_library else Receiver.ANY
    info = _class_of(kind)
    if info is None:
        return Receiver.OTHER
    return Receiver.BINDING if _is_binding(_owner(info, attribute).module_name) else Receiver.OTHER


def _owner(info: Any, attribute: str) -> Any:
    """The class that an attribute is inherited from."""
    return info.get_containing_type_info(attribute) or info


def _class_of(kind: Any) -> Any:
    """The class of an instance, or a class itself."""
    if isinstance(kind, LiteralType):
        kind = kind.fallback
    if isinstance(kind, TypeType):
        kind = get_proper_type(kind.item)
    if isinstance(kind, FunctionLike) and kind.is_type_obj():
        return kind.type_object()
    return kind.type if isinstance(kind, Instance) else None


def _base_of_bindings(info: Any) -> Any:
    return next((base for base in info.mro[1:] if _is_binding(base.module_name)), None)


def _parameters(method: FuncDef) -> tuple[str, ...] | None:
    """What the bindings call the parameters of the method that this one overrides."""
    for base in method.info.mro[1:]:
        if method.name in base.names:
            theirs = get_proper_type(base.names[method.name].type)
            return tuple(name or "" for name in theirs.arg_names) if isinstance(theirs, CallableType) else ()
    return None


def _is_binding(module: str) -> bool:
    return module.partition(".")[0] in BINDINGS
