"""What the status says of the slots of a device: how many are used, and the scatter that this rests on."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from proteus_cli.control.slot_tuner import SlotTuner
from proteus_cli.domain.base import Count

MAX_SHOWN = 6
"""Devices in one answer that is asked for every second."""

_OF_PROFILE = "Over what the profile has with all slots busy."


class SlotLevel(Struct, frozen=True):
    """Throughput with so many batches running, as estimated over the last windows."""

    running: Count
    throughput: Annotated[float, Meta(description=_OF_PROFILE)]
    error: Annotated[float, Meta(description="The standard error of it.")]


class SlotScatter(Struct, frozen=True):
    """The last windows of batches, a column each."""

    slots: Annotated[Sequence[int], Meta(description="That were used.")]
    running: Annotated[Sequence[float], Meta(description="Batches that ran, in the mean.")]
    throughput: Annotated[Sequence[float], Meta(description=_OF_PROFILE)]
    service_s: Annotated[Sequence[float], Meta(description="Of a batch, in the mean.")]


class SlotChangeStatus(Struct, frozen=True):
    """From then on so many slots are used."""

    ago_s: float
    slots: Count
    reason: str


class SlotsStatus(Struct, frozen=True):
    """The slots of a device that has several: how many batches it runs at once."""

    opened: Annotated[Count, Meta(description="That it was opened with, those of its profile: no more are used.")]
    used: Annotated[Count, Meta(description="How many batches it may run at once now.")]
    settled: Annotated[Count, Meta(description="The same, apart from a trial.")]
    busy: Annotated[Count, Meta(description="Batches that it runs now.")]
    knee: Annotated[
        Count | None,
        Meta(description="The least number with the most throughput, of those that are known; null: none is yet."),
    ]
    levels: Sequence[SlotLevel]
    scatter: SlotScatter
    changes: Annotated[Count, Meta(description="Of the settled number, since the start.")]
    last: Sequence[SlotChangeStatus]
    trials: Annotated[Count, Meta(description="Of another number, since the start.")]
    begun_anew: Annotated[
        Count,
        Meta(
            description="How often the estimate was forgotten, as plan, host or neighbour changed, or it did not hold."
        ),
    ]


def slots_status(tuner: SlotTuner, now_s: float) -> SlotsStatus:
    """How the slots of a device are tuned; rates are parts of all slots', times are seconds."""
    max_slots, known, windows = tuner.max_slots, tuner.estimate, [each for each in tuner.windows if each.batches]
    return SlotsStatus(
        opened=max_slots,
        used=tuner.slots,
        settled=tuner.settled,
        busy=tuner.bins.running,
        knee=tuner.knee,
        levels=[
            SlotLevel(n, round(known.of(n) / max_slots, 4), round(known.error(n) / max_slots, 4)) for n in known.levels
        ]
        if known is not None
        else [],
        scatter=SlotScatter(
            slots=[each.slots for each in windows],
            running=[round(each.mean_running, 3) for each in windows],
            throughput=[round(each.work_s / each.lasted_s / max_slots, 4) for each in windows],
            service_s=[round(each.service_s / each.batches, 6) for each in windows],
        ),
        changes=tuner.changed,
        last=[SlotChangeStatus(round(now_s - each.at_s, 3), each.slots, each.reason) for each in tuner.changes],
        trials=tuner.trials,
        begun_anew=tuner.begun_anew,
    )


def lately_changed(tuners: Mapping[str, SlotTuner], now_s: float) -> dict[str, SlotsStatus]:
    """The slots of `MAX_SHOWN` devices: those that changed last, in the order of all."""
    last_s = {device: tuner.changes[-1].at_s if tuner.changes else 0.0 for device, tuner in tuners.items()}
    shown = set(sorted(last_s, key=lambda device: -last_s[device])[:MAX_SHOWN])
    return {device: slots_status(tuner, now_s) for device, tuner in tuners.items() if device in shown}
