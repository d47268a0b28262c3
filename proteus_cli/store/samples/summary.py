"""Summaries of the samples of each family."""

from collections.abc import Sequence
from pathlib import Path

from proteus_cli.domain.base import Value
from proteus_cli.store.samples.chunk import SampledRequest, read_labels, read_requests
from proteus_cli.store.samples.directory import SampleFile, sample_files


class SampleSummary(Value, frozen=True):
    """The samples of a family: ``labelled`` rows have a label; from the first answer to the last (Unix time)."""

    family: str
    requests: int
    rows: int
    labelled: int
    size_bytes: int
    first_unix_s: float
    last_unix_s: float


def summaries(root: Path) -> list[SampleSummary]:
    """A summary of each family that has samples, by name. Raises `ArtefactError`."""
    by_family: dict[str, list[SampleFile]] = {}
    for each in sample_files(root):
        by_family.setdefault(each.family, []).append(each)
    found = (_summary(family, files) for family, files in sorted(by_family.items()))
    return [each for each in found if each is not None]


def _summary(family: str, files: list[SampleFile]) -> SampleSummary | None:
    told, requests = dict[tuple[str, int], Sequence[int | None]](), dict[tuple[str, int], SampledRequest]()
    for each in files:
        if each.is_chunk:
            run = each.path.name.split("-")[1]
            requests |= {(run, request.number): request for request in read_requests(each.path)}
        else:
            labels = read_labels(each.path)
            told |= {(labels.run, number): by_row for number, by_row in labels.labels.items()}
    if not requests:
        return None
    times = [each.unix_s for each in requests.values()]
    return SampleSummary(
        family,
        len(requests),
        sum(each.rows for each in requests.values()),
        sum(label is not None for key, by_row in told.items() if key in requests for label in by_row),
        sum(each.size_bytes for each in files),
        min(times),
        max(times),
    )
