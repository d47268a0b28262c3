"""Where our code touches the bindings: told by the types that mypy found, not by how the code looks."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from contract.api.checking import BINDINGS
from mypy.nodes import CallExpr, FuncDef, MemberExpr, MypyFile, RefExpr, TypeInfo
from mypy.traverser import TraverserVisitor
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


@dataclass(frozen=True, slots=True)
class Uses:
    """All attributes and calls of a module with what their receivers are, and its overrides."""

    receivers: Mapping[Site, Receiver]
    overrides: tuple[Override, ...]

    def of_bindings(self) -> set[Site]:
        return {site for site, receiver in self.receivers.items() if receiver is Receiver.BINDING}


def aliases(tree: MypyFile) -> set[str]:
    """What a module calls the modules of the bindings."""
    modules = ((name, symbol.node) for name, symbol in tree.names.items())
    return {name for name, node in modules if isinstance(node, MypyFile) and _is_binding(node.fullname)}


def uses(module: str, tree: MypyFile, types: Mapping[Any, Any]) -> Uses:
    """What a module that was checked uses."""
    reader = _Reader(module, types)
    tree.accept(reader)
    return Uses(reader.receivers, tuple(reader.overrides))


class _Reader(TraverserVisitor):  # type: ignore[misc]  # mypy isn't followed when this is checked
    def __init__(self, module: str, types: Mapping[Any, Any]) -> None:
        self.module, self.types = module, types
        self.receivers: dict[Site, Receiver] = {}
        self.overrides: list[Override] = []

    def visit_block(self, block: Any, /) -> None:
        if not block.is_unreachable:  # `else` of `if TYPE_CHECKING`, which no release is asked about
            super().visit_block(block)

    def visit_member_expr(self, o: MemberExpr, /) -> None:
        self.receivers[self._site(o, o.name, is_call=False)] = self._receiver(o)
        super().visit_member_expr(o)

    def visit_call_expr(self, o: CallExpr, /) -> None:
        if o.analyzed is None:  # no `cast(…)` or other special form, which isn't called
            name = o.callee.name if isinstance(o.callee, RefExpr) else "expression"
            self.receivers[self._site(o, name, is_call=True)] = self._callee(o.callee)
        super().visit_call_expr(o)

    def visit_func_def(self, o: FuncDef, /) -> None:
        base = _base_of_bindings(o.info) if isinstance(o.info, TypeInfo) and o.info else None
        if base is not None and not o.name.startswith("_"):
            self.overrides.append(Override(self.module, o.line, o.name, tuple(o.arg_names), _parameters(o)))
        super().visit_func_def(o)

    def _site(self, node: Any, name: str, *, is_call: bool) -> Site:
        return Site(self.module, (node.line, node.column, node.end_line, node.end_column), is_call, name)

    def _receiver(self, member: MemberExpr) -> Receiver:
        if isinstance(member.expr, RefExpr) and isinstance(member.expr.node, MypyFile):
            return Receiver.BINDING if _is_binding(member.expr.node.fullname) else Receiver.OTHER
        if member.expr not in self.types:
            return Receiver.UNSEEN
        return _kind(self.types[member.expr], member.name)

    def _callee(self, callee: Any) -> Receiver:
        if callee not in self.types:
            return Receiver.UNSEEN
        if isinstance(get_proper_type(self.types[callee]), AnyType):
            return _kind(self.types[callee], "")
        if isinstance(callee, MemberExpr):
            return self._receiver(callee)
        return _kind(self.types[callee], "")


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
    owner = info.get_containing_type_info(attribute) or info
    return Receiver.BINDING if _is_binding(owner.module_name) else Receiver.OTHER


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
    return module.split(".")[0] in BINDINGS
