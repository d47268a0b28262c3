"""What a multi-exit model says of its answers, and what is to be expected of them."""

import math

from proteus_cli.backends.base import OutputArrays
from proteus_cli.control.decision import Host
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch, Staged


def of_exits(answer: Answered, notes: OutputArrays) -> Answered:
    """The answer to a request with the exits of its rows; ``notes`` are those of all rows of its batch."""
    batch, rows = answer.batch, slice(answer.first, answer.first + answer.rows)
    exits, confidences, cut = (values[rows] for values in notes)
    lowest = float(confidences.min())
    staged = Staged(
        None,
        lowest if math.isfinite(lowest) else None,
        _accuracy(batch.hosted, exits.tolist(), cut.tolist()),
        exit=int(exits.max()),
        is_cut=bool(cut.any()),
    )
    own = AnsweredBatch(batch.hosted, batch.rows, answer.outputs, batch.compute_s, staged=staged)
    return Answered(own, 0, answer.rows, answer.queue_s)


def is_cut(notes: OutputArrays) -> bool:
    """Whether a row of a batch was cut short, so that the batch took less than profiled."""
    return bool(notes) and bool(notes[2].any())


def _accuracy(hosted: Host, exits: list[int], cut: list[bool]) -> float:
    """The mean of what is to be expected of answers of these exits; of the variant where its profile knows no more."""
    known = hosted.exits
    if not known:
        return hosted.accuracy
    rows = zip(exits, cut, strict=True)
    each = (known[place - 1].answers_worth(is_cut=is_cut, otherwise=hosted.accuracy) for place, is_cut in rows)
    return sum(each) / len(exits)
