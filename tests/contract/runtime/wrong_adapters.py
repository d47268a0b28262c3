"""Wrong adapters, made from the right one by changing its source; the scenarios must find each."""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CUDA, SLOTS, CHAIN_SLOTS, ENGINE, GPU, THREADS, EXECUTOR = (
    "proteus_cli.backends.tensorrt.cuda",
    "proteus_cli.backends.tensorrt.slots",
    "proteus_cli.backends.tensorrt.chain_slots",
    "proteus_cli.backends.tensorrt.engine",
    "proteus_cli.serving.devices.gpu",
    "proteus_cli.serving.devices.threaded",
    "proteus_cli.serving.devices.executor",
)


@dataclass(frozen=True)
class Edit:
    module: str
    old: str
    new: str


@dataclass(frozen=True)
class WrongAdapter:
    """``scenario`` finds it, and says so in these words."""

    edits: Sequence[Edit]
    scenario: str
    words: str


WRONG_ANSWERS = "wrong answers"
ON_THE_DEFAULT_STREAM = (
    "wrong answers|default_stream_calls=[1-9]"  # where no copy happened to be late, they are counted
)
SET_ROWS, COPIED_IN = "        self._set_rows(rows)\n", "        self._copied_in.record(self._stream)\n"
PINNED = "cuda.pagelocked_empty(max_rows * spec.row_bytes, np.uint8)"
NO_FREE = Edit(SLOTS, "    allocation: object = pinned.base\n", "    return\n    allocation: object = pinned.base\n")

WRONG_ADAPTERS = {
    "ignored event": WrongAdapter([Edit(SLOTS, "self._done.synchronize()", "pass")], "answers", WRONG_ANSWERS),
    "missing push": WrongAdapter(
        [Edit(CUDA, "self._context.push()", "pass")], "answers", "invalid device context|explicit_context"
    ),
    "missing pop": WrongAdapter([Edit(CUDA, "cuda.Context.pop()", "pass")], "answers", "context stack was not empty"),
    "waiter without context": WrongAdapter(
        [
            Edit(
                GPU,
                "        with self._context.current():\n            return _waited(running.slot",
                "        if True:\n            return _waited(running.slot",
            )
        ],
        "answers",
        "invalid device context",
    ),
    "copy in on the default stream": WrongAdapter(
        [
            Edit(
                SLOTS,
                "tensor.pinned[: rows * tensor.spec.row_bytes], self._stream)",
                "tensor.pinned[: rows * tensor.spec.row_bytes])",
            )
        ],
        "answers",
        ON_THE_DEFAULT_STREAM,
    ),
    "copy out on the default stream": WrongAdapter(
        [Edit(SLOTS, "tensor.device, self._stream)", "tensor.device)")], "answers", ON_THE_DEFAULT_STREAM
    ),
    "pageable buffers": WrongAdapter(
        [Edit(SLOTS, PINNED, "np.empty(max_rows * spec.row_bytes, np.uint8)"), NO_FREE], "overlap", "no overlap"
    ),
    "reused slot": WrongAdapter(
        [
            Edit(
                GPU,
                "        self._running.put(GpuBatch(",
                "        engine.give_back(slot)\n        self._free_slots.release()\n"
                "        self._running.put(GpuBatch(",
            ),
            Edit(
                GPU, "            running.engine.give_back(running.slot)\n            self._free_slots.release()\n", ""
            ),
        ],
        "answers",
        WRONG_ANSWERS,
    ),
    "outputs left in pinned memory": WrongAdapter(
        [Edit(SLOTS, "[: self._rows].copy()", "[: self._rows]")], "answers", WRONG_ANSWERS
    ),
    "stale shape": WrongAdapter(
        [Edit(SLOTS, "if rows == self._shaped_rows:", "if self._shaped_rows:")], "answers", WRONG_ANSWERS
    ),
    "shape told each time": WrongAdapter(
        [Edit(SLOTS, "if rows == self._shaped_rows:", "if False:")], "shapes", "told 6 times"
    ),
    "device buffers not freed": WrongAdapter(
        [Edit(SLOTS, "        self.device.free()\n", "")], "leftover_frames", "left over"
    ),
    "pinned buffers not freed": WrongAdapter([NO_FREE], "leftover_frames", "left over"),
    "blocking stream": WrongAdapter(
        [Edit(SLOTS, "cuda.Stream(NON_BLOCKING)", "cuda.Stream()")], "answers", "blocking_streams"
    ),
    "one stream for all slots": WrongAdapter(
        [Edit(SLOTS, "cuda.Stream(NON_BLOCKING)", 'globals().setdefault("_one", cuda.Stream(NON_BLOCKING))')],
        "slots",
        "second slot brings",
    ),
    "copies counted as computing": WrongAdapter(
        [Edit(SLOTS, COPIED_IN, ""), Edit(SLOTS, SET_ROWS, SET_ROWS + COPIED_IN)],
        "timed",
        "copies are in",
    ),
    "waiting that spins": WrongAdapter(
        [Edit(SLOTS, "cuda.Event(cuda.event_flags.BLOCKING_SYNC)", "cuda.Event()")], "answers", "spinning_waits"
    ),
    "no rollback": WrongAdapter(
        [
            Edit(
                ENGINE,
                "                self._drop()\n                raise",
                "                _abandoned.append(self)\n                raise",
            )
        ],
        "out_of_memory",
        "left over",
    ),
    "frames of errors keep what they hold": WrongAdapter(
        [Edit(ENGINE, "traceback.clear_frames(error.__traceback__)", "pass")], "unservable", "left over"
    ),
    "memory not counted": WrongAdapter(
        [Edit(ENGINE, "require_memory(slots * self.slot_bytes, free_bytes,", "require_memory(0, free_bytes,")],
        "too_large",
        "not counted before",
    ),
    "loss not seen": WrongAdapter(
        [Edit(CUDA, "            self._note_lost(error)\n\n    def _push", "            pass\n\n    def _push")],
        "lost_context",
        "not DeviceLost",
    ),
    "lost context not let go": WrongAdapter(
        [Edit(CUDA, "            self._release()\n\n    def _note_lost", "            pass\n\n    def _note_lost")],
        "launch_failure",
        "context stack was not empty",
    ),
    "nobody told": WrongAdapter(
        [Edit(EXECUTOR, "            self._on_lost(loss)\n", "            pass\n")],
        "lost_context",
        "told 0 times",
    ),
    "nobody told of a load": WrongAdapter(
        [Edit(GPU, "            super()._on_loop(self._lose, loss)\n", "            pass\n")],
        "lost_while_loading",
        "told 0 times",
    ),
    "closed before its batches": WrongAdapter(
        [
            Edit(
                THREADS,
                "            self._after_batches(self._engines.pop(key).close)",
                "            with self._context.current():\n                self._engines.pop(key)._drop()",
            )
        ],
        "swap",
        "illegal memory access|no attribute",
    ),
}


WRONG_ADAPTERS |= {
    "rows not compacted": WrongAdapter(
        [Edit(CHAIN_SLOTS, "source + first * spec.row_bytes", "source")], "exits", WRONG_ANSWERS
    ),
    "features copied on the default stream": WrongAdapter(
        [Edit(CHAIN_SLOTS, "size_bytes, self._stream)", "size_bytes)")], "exits", ON_THE_DEFAULT_STREAM
    ),
    "exits read too early": WrongAdapter(
        [Edit(CHAIN_SLOTS, "self._done.synchronize()", "pass")], "exits", WRONG_ANSWERS
    ),
    "answers left in pinned memory": WrongAdapter(
        [Edit(CHAIN_SLOTS, "[: self._rows].copy()", "[: self._rows]")], "exits", WRONG_ANSWERS
    ),
    "features to the host": WrongAdapter(
        [Edit(CHAIN_SLOTS, "self.outputs if spec.name in answers else None", "self.outputs")],
        "features",
        "bytes went to the host",
    ),
    "features not freed": WrongAdapter(
        [
            Edit(CHAIN_SLOTS, "            feature.free()\n", "            _kept.append(feature)\n"),
            Edit(CHAIN_SLOTS, "def _runs(", "_kept: list[object] = []\n\n\ndef _runs("),
        ],
        "exits_out_of_memory",
        "left over",
    ),
    "one stage counted": WrongAdapter(
        [Edit(CHAIN_SLOTS, "for stage in self.stages)", "for stage in self.stages[:1])")],
        "exits_too_large",
        "not counted before",
    ),
}


def install(name: str) -> None:
    """Import the changed modules in place of the right ones, before anybody imports those."""
    changed: dict[str, str] = {}
    for edit in WRONG_ADAPTERS[name].edits:
        source = changed.get(edit.module) or _source(edit.module)
        if source.count(edit.old) != 1:
            times = source.count(edit.old)
            raise LookupError(f"`{name}` can't be made: {times} times in {edit.module} is {edit.old!r}")
        changed[edit.module] = source.replace(edit.old, edit.new)
    for module, source in changed.items():
        _import_changed(module, source)


def _source(module: str) -> str:
    return Path(_origin(module)).read_text(encoding="utf-8")


def _origin(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise LookupError(module)
    return spec.origin


def _import_changed(module: str, source: str) -> None:
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise LookupError(module)
    made = importlib.util.module_from_spec(spec)
    sys.modules[module] = made
    exec(compile(source, _origin(module), "exec"), made.__dict__)  # noqa: S102 - our own source, changed
