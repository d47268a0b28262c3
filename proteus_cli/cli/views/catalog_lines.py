"""What was added to the catalog, in lines."""

from collections.abc import Iterator

from proteus_cli.variants.adding import Addition


def addition_lines(made: Addition) -> Iterator[str]:
    """A line for each variant, then what all of the family take and give."""
    for added in made.variants:
        freed = f"; its batch of {added.fixed_batch} was made dynamic" if added.fixed_batch is not None else ""
        yield f"added {added.variant} to `{made.family}`: accuracy {added.accuracy:.4f}, {added.basis}{freed}"
    yield f"`{made.family}` takes {_tensors(made.inputs)}, and gives {_tensors(made.outputs)}; SLO {made.slo}"


def _tensors(tensors: dict[str, str]) -> str:
    return ", ".join(f"{name} ({described})" for name, described in tensors.items())
