"""Metrics of slots: how many a device uses, and what was measured of running several batches at once."""

from collections.abc import Mapping

from proteus_cli.control.slot_tuner import SlotTuner
from proteus_cli.serving.telemetry.metrics.exposition import Exposition, counter, gauge

OPENED = gauge("proteus_slots", "Slots that the device was opened with.", "device")
USED = gauge("proteus_slots_used", "Batches that it may run at once now.", "device")
BUSY = gauge("proteus_slots_busy", "Batches that it runs now.", "device")
KNEE = gauge("proteus_slots_knee", "The least number of batches at once with the most throughput.", "device")
CHANGES = counter("proteus_slot_changes_total", "Changes of the slots that a device uses.", "device")
TRIALS = counter("proteus_slot_trials_total", "Trials of one slot more, or fewer.", "device")
SECONDS = counter("proteus_slot_seconds_total", "Time with so many batches running.", "device", "running")
THROUGHPUT = gauge(
    "proteus_slot_throughput_ratio",
    "Throughput with so many batches running, over what the profile has with all slots busy.",
    "device",
    "running",
)


def add_slots(exposition: Exposition, tuners: Mapping[str, SlotTuner], now_s: float) -> None:
    """Add the devices of several slots, where slots are tuned."""
    if not tuners:
        return
    exposition.add(OPENED, [((device,), tuner.max_slots) for device, tuner in tuners.items()])
    exposition.add(USED, [((device,), tuner.slots) for device, tuner in tuners.items()])
    exposition.add(BUSY, [((device,), tuner.bins.running) for device, tuner in tuners.items()])
    exposition.add(KNEE, [((device,), tuner.knee) for device, tuner in tuners.items() if tuner.knee is not None])
    exposition.add(CHANGES, [((device,), tuner.changed) for device, tuner in tuners.items()])
    exposition.add(TRIALS, [((device,), tuner.trials) for device, tuner in tuners.items()])
    seconds = {device: tuner.bins.seconds(now_s) for device, tuner in tuners.items()}
    exposition.add(SECONDS, [((device, str(n)), of) for device, each in seconds.items() for n, of in enumerate(each)])
    known = {device: tuner.estimate for device, tuner in tuners.items() if tuner.estimate is not None}
    exposition.add(
        THROUGHPUT,
        [
            ((device, str(n)), each.of(n) / tuners[device].max_slots)
            for device, each in known.items()
            for n in each.levels
        ],
    )
