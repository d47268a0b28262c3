"""What a user names is read only where it is a regular file, and only up to the size of its kind."""

import gzip
import os
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import FileKind, LineReader, decoded, open_input, read_bytes, read_text, sha256_of, text_of

SMALL = FileKind("a small file", 1000)
HINT = "make it again"


def a_pipe(path: Path) -> str:
    os.mkfifo(path)
    return "is a pipe, and must be a regular file"


def a_directory(path: Path) -> str:
    path.mkdir()
    return "is a directory, and must be a regular file"


def a_socket(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return "is a socket, and must be a regular file"


def an_endless_device(path: Path) -> str:
    path.symlink_to("/dev/zero")
    return "is a device, and must be a regular file"


def nothing(path: Path) -> str:
    return f"No file `{path}`"


def a_link_to_nothing(path: Path) -> str:
    path.symlink_to(path.with_name("gone"))
    return f"No file `{path}`"


def a_link_to_itself(path: Path) -> str:
    path.symlink_to(path)
    return "Too many levels of symbolic links"


def too_much(path: Path) -> str:
    path.write_bytes(bytes(1001))
    return "is too large: a small file has at most 1000 B"


def a_sparse_file(path: Path) -> str:
    with path.open("wb") as file:
        file.truncate(1 << 40)
    return "is too large"


NOT_READ = [
    a_pipe, a_directory, a_socket, an_endless_device, nothing, a_link_to_nothing, a_link_to_itself, too_much,
    a_sparse_file,
]  # fmt: skip
READS: list[Callable[[Path], object]] = [
    lambda path: open_input(path, SMALL, hint=HINT),
    lambda path: read_bytes(path, SMALL, hint=HINT),
    lambda path: read_text(path, SMALL, hint=HINT),
    lambda path: sha256_of(path, SMALL, hint=HINT),
]


@pytest.mark.parametrize("make", NOT_READ)
@pytest.mark.parametrize("read", READS)
def test_what_is_no_regular_file_of_its_size_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], str], read: Callable[[Path], object]
) -> None:
    path = tmp_path / "given"
    problem = make(path)
    with pytest.raises(ArtefactError) as refused:
        read(path)
    assert problem in refused.value.message
    assert str(path) in refused.value.message
    assert refused.value.hint == HINT


def test_a_name_that_no_file_can_have_is_refused() -> None:
    for name in ("a\0b", "a" * 5000, "\udcff\ud800"):
        with pytest.raises(ArtefactError):
            read_bytes(Path(name), SMALL, hint=HINT)


def test_links_to_regular_files_are_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "link to the link").symlink_to("link")
    assert read_bytes(tmp_path / "link to the link", SMALL, hint=HINT) == b"content"


def test_a_file_that_is_replaced_between_look_and_open_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opens = tmp_path / "given", os.open
    path.write_bytes(b"regular")

    def replaced_before(*arguments: object) -> int:
        path.unlink()
        os.mkfifo(path)
        return opens(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", replaced_before)
    with pytest.raises(ArtefactError, match="is a pipe"):
        read_bytes(path, SMALL, hint=HINT)


def test_a_file_that_says_no_size_is_read_up_to_its_limit() -> None:
    with pytest.raises(ArtefactError, match="is too large"):
        read_bytes(Path("/proc/self/smaps"), SMALL, hint=HINT)


@pytest.mark.parametrize("size", [1000, 1001])
def test_the_size_of_gzipped_text_is_that_of_the_text(tmp_path: Path, size: int) -> None:
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(b"a" * (size - 1) + b"\n"))
    for read in (_text, _lines):
        if size > SMALL.max_bytes:
            with pytest.raises(ArtefactError, match="is too large"):
                read(path)
        else:
            assert read(path) == "a" * 999 + "\n"


def _text(path: Path) -> str:
    return read_text(path, SMALL, hint=HINT)


def _lines(path: Path) -> str:
    with open_input(path, SMALL, hint=HINT) as file:
        return "".join(LineReader(file, str(path), SMALL, hint=HINT))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\x1f\x8b", "is not whole gzip data"),
        (b"\x1f\x8bgarbage", "is not whole gzip data"),
        (gzip.compress(b"a\n", mtime=0)[:-4], "is not whole gzip data"),
        (gzip.compress(b"a\n", mtime=0) + b"more", "is not whole gzip data"),
        (b"a\n\xff\n", "line 2: not UTF-8 text"),
        (gzip.compress(b"a\n\xff\n", mtime=0), "line 2: not UTF-8 text"),
    ],
)
def test_text_that_is_none_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)
    for read in (_text, _lines, lambda path: text_of(path.read_bytes(), SMALL, str(path), hint=HINT)):
        with pytest.raises(ArtefactError, match=problem):
            read(path)


def test_lines_are_bounded_and_numbered(tmp_path: Path) -> None:
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(b"first\n" + bytes(1 << 21)))
    kind = FileKind("a table", 1 << 30)
    with open_input(path, kind, hint=HINT) as file:
        lines = LineReader(file, "t", kind, hint=HINT)
        assert next(iter(lines)) == "first\n"
        with pytest.raises(ArtefactError, match="line 2: longer than 1 MiB"):
            next(iter(lines))


@pytest.mark.parametrize(
    ("content", "decode"),
    [
        (b"[" * 100_000, msgspec.json.decode),
        (b'{"a":' * 100_000, msgspec.json.decode),
        (b"a = " + b"[" * 100_000, msgspec.toml.decode),
        (b"a = " + b"{a=" * 100_000, msgspec.toml.decode),
        (b"a = " + b"9" * 5000, msgspec.toml.decode),
        (b"9" * 5000, int),
        (b"\xff", msgspec.toml.decode),
        (b"\xff", lambda content: tomllib.loads(content.decode())),
        (b"1e400", lambda content: int(float(content))),
    ],
)
def test_what_no_decoder_takes_is_one_error(content: bytes, decode: Callable[[bytes], object]) -> None:
    with pytest.raises(ArtefactError, match="`f` is not valid: "):
        decoded(content, decode, "`f` is not valid", hint=HINT)
