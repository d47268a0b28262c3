"""Lines of a source, one at a time: a file or stdin, gzipped or not, of any length."""

import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from proteus_cli.errors import ArtefactError
from proteus_cli.store import GZIP_MAGIC

STDIN = Path("-")
LONGEST_LINE_BYTES = 1 << 20
HINT = "docs/formats.md lists the formats of traces that can be converted"


class Lines:
    """The lines of an open file, and the number of the last one that was taken.

    ``size_bytes`` is 0 where it is unknown. Raises `ArtefactError` for what is no text, from the iterator.
    """

    def __init__(self, name: str, file: io.BufferedReader, size_bytes: int = 0) -> None:
        self.name, self.number = name, 0
        self._file, self._size_bytes = file, size_bytes
        self._decoded = self._decode()

    def __iter__(self) -> Iterator[str]:
        return self._decoded

    @property
    def done_frac(self) -> float:
        """How much of the file was read; 0 where its size is unknown."""
        return min(1.0, self._file.tell() / self._size_bytes) if self._size_bytes else 0.0

    def error(self, problem: object) -> ArtefactError:
        """What is wrong in the last line that was taken."""
        return ArtefactError(f"`{self.name}`, line {max(self.number, 1)}: {problem}.", hint=HINT)

    def _decode(self) -> Iterator[str]:
        encoding = "utf-8-sig"  # a byte order mark can only be on the first line
        try:
            readline = self._unpacked().readline
            while line := readline(LONGEST_LINE_BYTES):
                self.number += 1
                if len(line) == LONGEST_LINE_BYTES:
                    raise self.error("longer than 1 MiB, so no row of a trace")
                yield line.decode(encoding)
                encoding = "utf-8"
        except UnicodeDecodeError:
            raise self.error("not UTF-8 text") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            message = f"`{self.name}` is not whole gzip data: {error}."
            raise ArtefactError(message, hint="fetch or make the file anew") from None
        except OSError as error:
            raise ArtefactError(f"Can't read `{self.name}`: {error.strerror or error}.", hint=HINT) from error

    def _unpacked(self) -> IO[bytes]:
        is_packed = self._file.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC)
        return cast("IO[bytes]", gzip.GzipFile(fileobj=self._file)) if is_packed else self._file


@contextmanager
def open_lines(path: Path) -> Iterator[Lines]:
    """The lines of a file, or of stdin where ``path`` is ``-``. Raises `ArtefactError` where it can't be read."""
    if path == STDIN:
        yield Lines("stdin", cast("io.BufferedReader", sys.stdin.buffer))
        return
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise ArtefactError(f"No file `{path}`.", hint=HINT) from None
    except OSError as error:
        raise ArtefactError(f"Can't read `{path}`: {error.strerror or error}.", hint=HINT) from error
    with file:
        status = os.fstat(file.fileno())
        yield Lines(str(path), file, status.st_size if stat.S_ISREG(status.st_mode) else 0)
