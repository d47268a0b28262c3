"""How many batches a device runs at once, learned while it serves.

Theory of operation
===================

A device of several slots runs up to so many batches at once. How many are worth it depends on what it hosts, on its
host and on its neighbours, and so changes while it serves. `SlotTuner` watches one device and says with how many of
its slots it should run; it never goes above the slots that the device was opened with, nor below one.

**What is watched** (`slot_bins`). The number of running batches changes when one begins or ends. `SlotBins` counts the
seconds that each batch spends beside 0, 1, 2 … others, and nothing of it is kept: a window adds, over its batches, what
a regression needs. With n running, each batch progresses at a speed r(n); a batch that should take w, and spent t(n)
with n running, is the equation Σ t(n)·r(n) = w. So batches count in full that saw several numbers, and a device need
not be busy all the time. Each costs a few dozen additions, and a window the same memory whatever runs in it.

**What is estimated** (`throughputs`). The throughput with n running, X(n) = n·r(n), over the last windows, with the
standard error of each comparison (a jackknife over windows). Its unit is the profile: 1 is a second of profiled work a
second. The knee is the smallest n with the throughput of the plateau (`domain.concurrency`).

**What is decided** (`slot_tuner`). *Down*, to a number that loses less than `TOLERANCE_FRAC` for sure. Load varies, so
the smaller numbers are seen without a trial. *Up* needs a `SlotTrial`: windows with one slot more take turns with
windows as before, only while all slots are busy. The device gets the slot if it gains more than `TOLERANCE_FRAC` for
sure. A device that is always busy has trials downwards, too. The first trial after a change goes far, to twice or half
as many. A trial ends as soon as it is sure that it gains nothing, and each that fails makes the next pause twice as
long.

**Why it does not oscillate.** Down needs proof that a slot is worth less than the tolerance, and up that it is worth
more: one device gives no proof of both. Chance may, so each change against the last one has to wait twice as long as
the one before it, up to `LONGEST_HOLD_S`.

**When it begins anew.** If windows of one number of slots leave the estimate, in a row and by more than chance, older
windows are forgotten. A change of what the device hosts, of its servers or of its neighbours forgets all windows and
the pauses. The number of slots stays until another one is proved better.

Fewer slots abort nothing: what runs ends, and until as many have ended no batch starts.
"""
