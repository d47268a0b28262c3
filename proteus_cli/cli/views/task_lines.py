"""Tasks, in tables and lines."""

from collections.abc import Iterator

from rich.console import RenderableType

from proteus_cli.tables import described, name, number, table, text
from proteus_cli.units import UNKNOWN, counted, format_size
from proteus_cli.variants.training.adding import AddedTask


def added_table(made: AddedTask) -> RenderableType:
    """A row for each model that was trained."""
    rows = table(name("variant"), number("accuracy"), number("rate"), number("size"), name(""), text("why"))
    for each in made.variants:
        rate = f"{each.qps:,.0f}" if each.qps else UNKNOWN
        kept = "kept" if each.kept else "dropped"
        rows.add_row(each.variant, f"{each.accuracy:.4f}", rate, format_size(each.size_bytes), kept, each.why)
    return described(
        rows,
        f"accuracy: on {counted(made.eval_rows, 'row')} held out; trained on {made.train_rows:,}",
        f"rate: queries per second within the SLO of {made.slo} on {made.device}",
    )


def added_lines(made: AddedTask) -> Iterator[str]:
    if made.untrained:
        yield f"no time was left to train {', '.join(made.untrained)}: `--budget` gives more"
    kept = sum(each.kept for each in made.variants)
    yield f"added `{made.family}` with {counted(kept, 'variant')}"
