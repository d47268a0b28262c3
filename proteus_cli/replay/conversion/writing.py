"""A sorted stream → the CSV that `trace.to_csv` would write of it, piece by piece."""

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from proteus_cli.errors import UsageError
from proteus_cli.replay.conversion.formats import SECOND_US
from proteus_cli.replay.conversion.stream import Blocks
from proteus_cli.replay.trace import own_cells, require_countable

Ints = npt.NDArray[np.int64]


def csv_pieces(blocks: Blocks, names: Sequence[str], *, own: Sequence[str], per_second: bool) -> Iterator[str]:
    """Pieces of CSV; ``names`` are those of the families, ``own`` the columns with what single arrivals ask for.

    Raises `UsageError` before the first piece where there is nothing to write, or something that counts can't hold.
    """
    if per_second:
        hint = "write one row per arrival; `--without-slo` leaves latency targets out"
        require_countable(own, "The trace", hint=hint)
    full = (block for block in blocks if len(block))
    first = next(full, None)
    if first is None:
        raise UsageError("Scaled so far down, the trace has no arrivals left.", hint="scale it to more")
    whole = chain([first], full)
    return _counts(whole, names) if per_second else _arrivals(whole, names, own)


def _arrivals(blocks: Blocks, names: Sequence[str], own: Sequence[str]) -> Iterator[str]:
    yield ",".join(("arrival_s", "family", *own)) + "\n"
    cells = [_cell(name) for name in names]
    for block in blocks:
        arrivals = zip((block["time_us"] / SECOND_US).tolist(), block["family"].tolist(), strict=True)
        if own:
            asked = map(",".join, zip(*(own_cells(name, block[name].tolist()) for name in own), strict=True))
            rows = zip(arrivals, asked, strict=True)
            yield "".join([f"{arrival_s:.6f},{cells[family]},{more}\n" for (arrival_s, family), more in rows])
        else:
            yield "".join([f"{arrival_s:.6f},{cells[family]}\n" for arrival_s, family in arrivals])


def _counts(blocks: Blocks, names: Sequence[str]) -> Iterator[str]:
    """Keeps the last second of a block back, as the next one may add to it."""
    yield "second,family,count\n"
    order = sorted(range(len(names)), key=names.__getitem__)
    cells = [_cell(names[family]) for family in order]
    rank = np.argsort(order)
    slots, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)  # a slot is a second of a family
    for block in blocks:
        new = block["time_us"] // SECOND_US * len(names) + rank[block["family"]]
        slots, inverse = np.unique(np.concatenate([slots, new]), return_inverse=True)
        weights = np.concatenate([counts, np.ones(len(new), dtype=np.int64)])
        counts = np.bincount(inverse, weights=weights).astype(np.int64)
        done = int(np.searchsorted(slots, slots[-1] // len(names) * len(names)))
        yield _count_rows(slots[:done], counts[:done], cells)
        slots, counts = slots[done:], counts[done:]
    yield _count_rows(slots, counts, cells)


def _count_rows(slots: Ints, counts: Ints, cells: Sequence[str]) -> str:
    rows = zip(slots.tolist(), counts.tolist(), strict=True)
    return "".join([f"{slot // len(cells)},{cells[slot % len(cells)]},{count}\n" for slot, count in rows])


def _cell(text: str) -> str:
    """As the csv module writes it, quoted where that is needed."""
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="").writerow(["", text])
    return line.getvalue()[1:]
