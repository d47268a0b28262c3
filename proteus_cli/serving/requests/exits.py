"""What a multi-exit model says of its answers, and what is to be expected of them."""

import math

from proteus_cli.backends.base import OutputArrays
from proteus_cli.control.decision import Host
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch, Staged


def of_exits(answer: Answered, notes: OutputArrays) -> Answered:
    """The answer to a request with the exits of its rows; ``notes`` are those of all rows of its batch."""
    batch, rows = answer.batch, slice(answer.first, answer.first + answer.rows)
    exits, confidences = (values[rows] for values in notes)
    lowest = float(confidences.min())
    staged = Staged(
        None,
        lowest if math.isfinite(lowest) else None,
        _accuracy(batch.hosted, exits.tolist()),
        exit=int(exits.max()),
    )
    own = AnsweredBatch(batch.hosted, batch.rows, answer.outputs, batch.compute_s, staged=staged)
    return Answered(own, 0, answer.rows, answer.queue_s)


def _accuracy(hosted: Host, exits: list[int]) -> float:
    """The mean of what is to be expected of answers of these exits; of the variant where its profile knows no more."""
    known = hosted.exits
    each = (known[place - 1].answers_worth(is_cut=False, otherwise=hosted.accuracy) for place in exits if known)
    return sum(each) / len(exits) if known else hosted.accuracy
