"""Traces scaled to another rate, with the same shape over time."""

import math

import numpy as np

from proteus_cli.arrays import Floats
from proteus_cli.domain.trace import Trace
from proteus_cli.errors import UsageError
from proteus_cli.replay.trace import MAX_ARRIVALS

JITTER_S = 0.5  # by which a copy of an arrival moves at most


def scaled(trace: Trace, factor: float, rng: np.random.Generator) -> Trace:
    """The trace with its arrival rate multiplied.

    Each arrival is kept or repeated, ``factor`` times on average. Copies move by up to half a second, so that they
    don't come at once; none leaves the trace, which keeps its shape over time. Raises `UsageError` where ``factor`` is
    not a positive number, or leaves nothing or more than `MAX_ARRIVALS`.
    """
    if not 0 < factor < math.inf:
        raise UsageError(f"A trace can't be scaled by {factor}.", hint="give a finite factor above zero")
    require_feasible(len(trace) * factor)
    whole_copies = math.floor(factor)
    copies = whole_copies + (rng.random(len(trace)) < factor - whole_copies)
    source = np.repeat(np.arange(len(trace)), copies)
    if not len(source):
        raise UsageError("Scaled so far down, the trace has no arrivals left.", hint="scale it to more")
    is_copy = np.diff(source, prepend=-1) == 0
    moved_s = trace.arrival_s[source] + is_copy * rng.uniform(-JITTER_S, JITTER_S, len(source))
    arrival_s = _reflected(moved_s, trace.duration_s)
    order = np.argsort(arrival_s, kind="stable")
    source = source[order]
    own = {name: values[source] for name, values in trace.own.items()}
    return Trace(trace.name, trace.families, arrival_s[order], trace.family[source], **own)


def _reflected(arrival_s: Floats, duration_s: float) -> Floats:
    """Arrivals outside the trace mirrored at its ends, so that they don't pile up there."""
    inside_s = np.abs(arrival_s)
    inside_s = np.where(inside_s > duration_s, 2 * duration_s - inside_s, inside_s)
    return np.clip(inside_s, 0.0, duration_s)


def scaled_to(trace: Trace, peak_qps: float, rng: np.random.Generator) -> Trace:
    """The trace scaled so that its busiest 10 s, all families together, ask for ``peak_qps``. Raises `UsageError`."""
    now_qps = sum(trace.peak_demand().values())
    if now_qps <= 0:
        raise UsageError(f"Trace `{trace.name}` is too short to scale.", hint="give a trace of some seconds")
    return scaled(trace, peak_qps / now_qps, rng)


def require_feasible(arrivals: float) -> None:
    """Raise `UsageError` where a trace has more ``arrivals`` than fit in memory."""
    if not arrivals <= MAX_ARRIVALS:
        hint = "ask for a lower rate or a shorter time"
        raise UsageError(
            f"{arrivals:.3g} arrivals are more than the {MAX_ARRIVALS:,} that a trace may have.", hint=hint
        )
