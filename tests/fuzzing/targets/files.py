"""Target `files`: any file that a command reads. The first line is its kind, the rest its content.

It lies in a workspace whose other files are valid, and is read as commands read it. Then a command uses it, which may
refuse it, too. No event loop waits for a file, so that time is not watched; memory is.
"""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from unittest import mock

from fuzzing.in_process.file_kinds import KINDS, valid_files
from fuzzing.mutations.archives import gzipped, mutated_gzip, mutated_zip
from fuzzing.mutations.protobuf import mutated_message
from fuzzing.mutations.text import TextMutations
from fuzzing.targets.json_bodies import HEAVY as JSON_HEAVY
from fuzzing.targets.json_bodies import LIGHT as JSON_LIGHT
from fuzzing.targets.target import Target
from fuzzing.watch import Watch
from typer.main import get_command

from proteus_cli.cli.main import app
from proteus_cli.errors import ProteusError
from proteus_cli.replay import convert as conversion
from proteus_cli.replay import trace

MAX_ARRIVALS = 10**6
"""Of a trace, in place of 50 million: all are held in memory, as users of large traces want it."""

_DONE = (0, None)
LIGHT = (
    *JSON_LIGHT, b"1e-308", b"1e308", b"nan", b"inf", b"0x10", b"1_000", b"100000000000000000000", b"1000000000",
    b"2020-01-02T03:04:05Z", b"2020-01-02 03:04:05", b"1700000000", b"'", b'"""', b"=", b"#", b"[[family]]",
    b"[devices]", b"a.b = 1", b"cpu0", b"shapes", b"tones", b"../x", b"/etc/passwd", b"100ms", b"1e9h", b"-5ms",
    b"\n", b"\r\n", b"\t", b";",
    b"arrival_s", b"second", b"count", b"timestamp", b"minute", b"function", b"\xef\xbb\xbf", b"\xff", b"\0",
)  # fmt: skip
HEAVY = (*JSON_HEAVY, b"[" * 100_000, b"a." * 20_000, b"\n" * 20_000, b"," * 20_000, b"1" * 400, b'"' * 10_000)


class Files(Target):
    def __init__(self) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="fuzzed-"))
        self._valid = valid_files(self._root)
        self._mutate_text = TextMutations(LIGHT, HEAVY, [*self._valid.values()], b",")

    def play(self, content: bytes, watch: Watch) -> None:
        with contextlib.suppress(ProteusError):
            self._take(content)

    def accepts(self, content: bytes) -> bool:
        try:
            self._take(content)
        except ProteusError:
            return False
        return True

    def _take(self, content: bytes) -> None:
        name, _, rest = content.partition(b"\n")
        kind = KINDS.get(name.decode(errors="replace"))
        if kind is None:
            return
        path = self._root / kind.path
        path.write_bytes(rest)
        try:
            with _silent():
                kind.read(self._root)
                if kind.command:
                    _run([part.format(root=self._root) for part in kind.command])
        finally:
            path.write_bytes(self._valid[name.decode()])
            shutil.rmtree(self._root / "imported", ignore_errors=True)

    def seeds(self) -> Mapping[str, bytes]:
        packed = {f"{name}-gz": _of(name, gzipped(self._valid[name])) for name in ("trace", "source", "profiles")}
        return {**{name: _of(name, content) for name, content in self._valid.items()}, **packed}

    def mutate(self, content: bytes, rng: Random) -> bytes:
        name, _, rest = content.partition(b"\n")
        if name == b"model":
            return _of("model", mutated_message(rest, rng))
        if name in {b"eval", b"answers"}:
            return _of(name.decode(), mutated_zip(rest, rng, self._mutate_text))
        return name + b"\n" + mutated_gzip(rest, rng, self._mutate_text)

    def close(self) -> None:
        shutil.rmtree(self._root)


def _of(name: str, content: bytes) -> bytes:
    return name.encode() + b"\n" + content


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What commands print and log goes nowhere; traces have at most `MAX_ARRIVALS`."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        mock.patch.object(trace, "MAX_ARRIVALS", MAX_ARRIVALS),
        mock.patch.object(conversion, "MAX_ARRIVALS", MAX_ARRIVALS),
    ):
        yield


_command = get_command(app)  # to build it takes as long as most files


def _run(arguments: list[str]) -> None:
    """Run a command. It may raise a `ProteusError`, and else ends with success."""
    code: object = None
    try:
        _command(arguments)
    except SystemExit as end:
        code = end.code
    assert code in _DONE, f"exit {code}"
