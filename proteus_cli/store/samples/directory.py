"""The files of samples below a directory, ``FAMILY/TIME-RUN-NUMBER.npz``; the oldest make room for new ones.

Only the owner may read them. Several servers may write to one directory, and files may be removed while they do.
"""

import contextlib
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

from proteus_cli.errors import ArtefactError
from proteus_cli.store.files import write_new

CHUNK, LABELS = ".npz", ".labels.json"
_NAME = re.compile(r"(\d{8}T\d{6})-[0-9a-f]{8}-\d{6,}(\.npz|\.labels\.json)")
_STAMP = "%Y%m%dT%H%M%S"


@dataclass(frozen=True, slots=True)
class SampleFile:
    """A file of samples or labels of a family, and when it was written."""

    path: Path
    family: str
    unix_s: float
    size_bytes: int

    @property
    def is_chunk(self) -> bool:
        """Whether it holds samples of requests; else it holds labels that came later."""
        return self.path.name.endswith(CHUNK)


def sample_files(root: Path, family: str | None = None) -> list[SampleFile]:
    """The files of a family, or of all, the oldest first. Files of other names are left out.

    Raises `ArtefactError` where they can't be read, or the family has none.
    """
    try:
        families = _families(root)
        wanted = [each for each in families if family in {None, each}]
        found = sorted(chain.from_iterable(_found(root, each) for each in wanted), key=lambda each: each.path.name)
    except OSError as error:
        raise ArtefactError(
            f"Can't read `{root}`: {error.strerror or error}.", hint="only who runs the server may read its samples"
        ) from error
    if family is not None and not found:
        raise no_samples(family, [each for each in families if _has_readable(root, each)])
    return found


def no_samples(family: str, others: Iterable[str] = ()) -> ArtefactError:
    """The error for a family without samples, where ``others`` have some."""
    known = ", ".join(sorted(others))
    hint = f"there are samples of: {known}" if known else "`proteus serve --set samples=1%` captures some requests"
    return ArtefactError(f"There are no samples of `{family}`.", hint=hint)


def write_samples(
    root: Path, family: str, run: str, number: int, unix_s: float, kind: str, content: bytes
) -> SampleFile:
    """Write a file whole or not at all, for its owner alone. Raises `OSError`."""
    directory = root / family
    for each in (root, directory):
        with contextlib.suppress(FileExistsError):
            each.mkdir(mode=0o700, parents=True)
    stamp = datetime.fromtimestamp(unix_s, UTC).strftime(_STAMP)
    path = directory / f"{stamp}-{run}-{number:06}{kind}"
    write_new(path, content, 0o600)
    return SampleFile(path, family, unix_s, len(content))


class SampleSpace:
    """The files below a directory and their ``size_bytes``, by the last `look` and by what was written since.

    Room is made without a look at all files. Changes by other servers since the last look are unknown.
    """

    def __init__(self, root: Path, space_bytes: int) -> None:
        self._root, self._space_bytes = root, space_bytes
        self._files = deque[SampleFile]()  # the oldest first
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._files)

    def look(self) -> None:
        """Know all files that are there. Raises `ArtefactError`."""
        self._files = deque(sample_files(self._root))
        self.size_bytes = sum(each.size_bytes for each in self._files)

    def add(self, file: SampleFile) -> None:
        """A file was written."""
        self._files.append(file)
        self.size_bytes += file.size_bytes

    def make_room(self, needed_bytes: int, before_unix_s: float) -> None:
        """Remove older files, and then the oldest until ``needed_bytes`` more fit. Raises `OSError`."""
        while self._files:
            oldest = self._files[0]
            if oldest.unix_s >= before_unix_s and self.size_bytes + needed_bytes <= self._space_bytes:
                return
            oldest.path.unlink(missing_ok=True)
            self._files.popleft()
            self.size_bytes -= oldest.size_bytes


def remove(root: Path, files: Iterable[SampleFile]) -> None:
    """Remove files, and directories that are empty then. Raises `ArtefactError`."""
    try:
        families = set()
        for each in files:
            each.path.unlink(missing_ok=True)
            families.add(each.path.parent)
        for directory in (*families, root):
            with contextlib.suppress(OSError):  # it is not empty, or gone
                directory.rmdir()
    except OSError as error:
        raise ArtefactError(
            f"Can't remove samples from `{root}`: {error.strerror or error}.", hint="only their owner may do it"
        ) from error


def _families(root: Path) -> list[str]:
    """The families that may have samples, by the names in the directory."""
    try:
        return sorted(each.name for each in root.iterdir())
    except FileNotFoundError:
        return []


def _has_readable(root: Path, family: str) -> bool:
    """Whether there are samples of a family that the user may read."""
    try:
        return next(_found(root, family), None) is not None
    except OSError:
        return False


def _found(root: Path, family: str) -> Iterator[SampleFile]:
    try:
        with os.scandir(root / family) as entries:
            for entry in entries:
                match = _NAME.fullmatch(entry.name)
                if match is None or not entry.is_file(follow_symlinks=False):
                    continue
                with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
                    size = entry.stat(follow_symlinks=False).st_size
                    yield SampleFile(Path(entry.path), family, _unix_s(match[1]), size)
    except (FileNotFoundError, NotADirectoryError):
        return


def _unix_s(stamp: str) -> float:
    try:
        return datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0
