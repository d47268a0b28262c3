"""What a module offers, read from its source: public names, and how its functions and methods are called.

Sources of doubles and stubs of the real modules are read alike, so that they can be compared.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence

from contract.api.boost import Parameter, Signature

Forms = tuple[Signature, ...]
"""The ways in which something is called, of which there are several where it is overloaded; none where it isn't."""

Surface = Mapping[str, Forms]
"""By dotted name; ``__init__`` counts as one, `self` is left out."""


def surface(text: str) -> Surface:
    found: dict[str, Forms] = {}
    for name, forms in _members(ast.parse(text).body, "", in_class=False):
        found[name] = (*found.get(name, ()), *forms)
    return found


def offers_more(double: Surface, real: Surface) -> list[str]:
    """Names of a double that the real one hasn't, and calls that it would refuse."""
    calls = ((name, form) for name, forms in double.items() for form in forms or (None,))
    return [_shown(name, form) for name, form in calls if not _is_real(name, form, real)]


def _shown(name: str, form: Signature | None) -> str:
    return name if form is None else f"{name}({', '.join(each.name for each in form.parameters)})"


def _is_real(name: str, form: Signature | None, real: Surface) -> bool:
    if name.endswith(".__init__") and name not in real:
        return True  # the real class is made by others, as that of the double then is
    return name in real and (form is None or any(_fits(form, theirs) for theirs in real[name]))


def _fits(ours: Signature, theirs: Signature) -> bool:
    """All that ours takes has the same name and place, and what it leaves out may be left out."""
    more = theirs.parameters[len(ours.parameters) :]
    return (*ours.parameters, *more) == theirs.parameters and all(parameter.is_optional for parameter in more)


def _members(body: Sequence[ast.stmt], prefix: str, *, in_class: bool) -> Iterator[tuple[str, Forms]]:
    for node in body:
        if isinstance(node, ast.ClassDef) and _is_public(node.name):
            yield f"{prefix}{node.name}", ()
            yield from _members(node.body, f"{prefix}{node.name}.", in_class=True)
        elif isinstance(node, ast.FunctionDef) and (_is_public(node.name) or node.name == "__init__"):
            yield f"{prefix}{node.name}", _forms(node, in_class=in_class)
            yield from ((f"{prefix}{name}", ()) for name in _kept_on_self(node))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            yield from ((f"{prefix}{name}", ()) for name in _assigned(node))


def _forms(node: ast.FunctionDef, *, in_class: bool) -> Forms:
    if any(ast.unparse(decorator) == "property" for decorator in node.decorator_list):
        return ()
    arguments = [*node.args.posonlyargs, *node.args.args][in_class:]
    first_optional = len(arguments) - len(node.args.defaults)
    return (Signature(tuple(Parameter(each.arg, place >= first_optional) for place, each in enumerate(arguments))),)


def _assigned(node: ast.Assign | ast.AnnAssign) -> Iterator[str]:
    """What an assignment defines: names, and the members of an enumeration that is written as a call."""
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        for name in (each.id for each in names if isinstance(each, ast.Name) and _is_public(each.id)):
            yield name
            if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "enum.Enum":
                yield from (f"{name}.{member}" for member in ast.literal_eval(node.value.args[1]))


def _kept_on_self(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_public(node.attr):
            yield from [node.attr] if ast.unparse(node.value) == "self" else []


def _is_public(name: str) -> bool:
    return not name.startswith("_")
