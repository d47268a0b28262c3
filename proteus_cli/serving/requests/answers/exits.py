"""What a multi-exit model says of its answers, and what is to be expected of them."""

import math

from proteus_cli.backends.base import OutputArrays
from proteus_cli.control.decision import Host
from proteus_cli.serving.requests.in_flight import Answered, Staged


def of_exits(answer: Answered, notes: OutputArrays) -> Answered:
    """The answer to a request with the exits of its rows; ``notes`` are those of all rows of its batch."""
    batch, rows = answer.batch, slice(answer.first, answer.first + answer.rows)
    exits, confidences, cut, held, energies = (values[rows] for values in notes)
    lowest, energy_j = float(confidences.min()), float(energies.sum())
    staged = Staged(
        None,
        lowest if math.isfinite(lowest) else None,
        _accuracy(batch.hosted, exits.tolist(), held.tolist()),
        energy_j=None if math.isnan(energy_j) else energy_j,
        exit=int(exits.max()),
        is_cut=bool(cut.any()),
    )
    return Answered(batch.of_one(answer.outputs, staged=staged), 0, answer.rows, answer.queue_s)


def is_cut(notes: OutputArrays) -> bool:
    """Whether a row of a batch was cut short, so that the batch took less than profiled."""
    return bool(notes) and bool(notes[2].any())


def _accuracy(hosted: Host, exits: list[int], held: list[int]) -> float:
    """The mean of what is to be expected of the rows; of the variant where its profile knows no more.

    What was profiled of an exit is of the rows for which the condition holds there. A row that has gone on, as its
    request asks for more confidence, is like these, not like the hard ones that get to the exit which answered it.
    """
    known = hosted.exits
    if not known:
        return hosted.accuracy
    rows = zip(exits, held, strict=True)
    each = (known[(at or exit_) - 1].answers_worth(is_cut=not at, otherwise=hosted.accuracy) for exit_, at in rows)
    return sum(each) / len(exits)
