"""Tasks, in tables and lines."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import RenderableType

from proteus_cli.cli.catalog import wrote_catalog
from proteus_cli.cli.workflows.retrained_rollout import RetrainedRollout
from proteus_cli.cli.workflows.rollout_options import RolloutOptions
from proteus_cli.errors import GateFailed
from proteus_cli.reporting.tables import described, name, number, table, text
from proteus_cli.units import UNKNOWN, counted, format_size
from proteus_cli.variants.training.adding import AddedTask
from proteus_cli.variants.training.registered import RegisteredTask
from proteus_cli.variants.training.retraining import NewVersion, Retraining


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


def added_lines(made: AddedTask, catalog: Path) -> Iterator[str]:
    """What became of the models that were asked for, and where the family stands."""
    if made.untrained:
        yield f"no time was left to train {', '.join(made.untrained)}: `--budget` gives more"
    kept = sum(each.kept for each in made.variants)
    yield f"added `{made.family}` with {counted(kept, 'variant')}"
    yield wrote_catalog(catalog)


def retrained_table(made: Retraining, *, in_catalog: bool) -> RenderableType:
    """A row for each new version, with both accuracies."""
    rows = table(name("version"), number("earlier"), number("new"), number("rate"), text("as good"))
    for each in made.versions:
        rate = f"{each.qps:,.0f}" if each.qps else UNKNOWN
        what = "yes" if each.passed else "no: it misses the SLO" if not each.qps else "no: it is less accurate"
        rows.add_row(each.name, f"{each.old_accuracy:.4f}", f"{each.accuracy:.4f}", rate, what)
    split = f" ({made.eval})" if in_catalog else ""
    return described(
        rows,
        f"accuracies: on {counted(made.eval_rows, 'row')} held out{split}; trained on {made.train_rows:,}",
        f"rate: queries per second within the SLO on {made.device}",
    )


def retrained_lines(made: Retraining, *, in_catalog: bool, by_hand: RolloutOptions | None) -> Iterator[str]:
    """What was left out, and how to have a server take over what is as good: ``by_hand``, where no server is told."""
    if made.untrained:
        yield f"not trained anew: {', '.join(made.untrained)}"
    if not made.passed:
        return
    if in_catalog:
        yield "wrote engines/catalog.toml"
        yield "a server takes it over with `--watch`, or by SIGHUP; without: proteus profile"
        return
    if by_hand is not None:
        yield "the catalog is as it was; to roll a version out by steps:"
        for each in made.passed:
            yield f"  {replace(by_hand, auto=True).command(made.family, each.name)}"


def rolled_out_lines(server: RetrainedRollout, first: NewVersion, made: Retraining) -> Iterator[str]:
    """Lines that say that the server rolls out the first version, and how to go on with the others."""
    yield f"{server.url} rolls {first.name} out; how far it is: proteus rollout status --url {server.url}"
    others = [each for each in made.passed if each is not first]
    if others:
        yield "one version of a family is rolled out at a time; once this one is, the others:"
        yield from server.commands(others)


def require_passed(made: Retraining, max_loss: float) -> None:
    """Raise `GateFailed` where a new version stays out of the catalog."""
    failed = [each for each in made.versions if not each.passed]
    if failed:
        names = ", ".join(f"`{each.name}`" for each in failed)
        raise GateFailed(
            f"Not for the catalog: {names}, less accurate by more than {max_loss:.4f}, or too slow for the SLO.",
            hint="the earlier versions stay; train on more or other rows, or allow more with `--max-loss`",
        )


def tasks_table(tasks: Sequence[RegisteredTask]) -> RenderableType:
    """A row for each task."""
    rows = table(name("task"), number("variants"), number("accuracy"), name("prefers"), number("slo"), text("data"))
    for each in tasks:
        found = [variant.accuracy for variant in each.variants]
        accuracy = f"{min(found):.4f} to {max(found):.4f}" if found else UNKNOWN
        rows.add_row(each.family, str(len(each.variants)), accuracy, each.prefer, each.slo, each.data)
    return rows


def versions_table(task: RegisteredTask) -> RenderableType:
    """A row for each variant."""
    rows = table(name("variant"), number("accuracy"), number("version"), text("there are"), text("model"))
    for each in task.variants:
        there = ", ".join(map(str, each.versions)) or UNKNOWN
        rows.add_row(each.variant, f"{each.accuracy:.4f}", str(each.version or UNKNOWN), there, each.onnx)
    return rows


def task_lines(task: RegisteredTask) -> Iterator[str]:
    """What a task prefers, and how it was trained."""
    most = f", at most {task.rows:,} rows" if task.rows is not None else ""
    yield f"`{task.family}` prefers {task.prefer}, within {task.slo}; its eval split is {task.eval or UNKNOWN}"
    how = f"by `{task.retrain}`" if task.retrain is not None else f"by our recipe with seed {task.seed}"
    yield f"trained on {task.data}{most}, {how}"
