"""Bearer tokens, kept as SHA-256 digests and compared in constant time."""

import hmac
import logging
import os
import stat
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import SETTINGS, open_input, read_at_most

MIN_TOKEN_CHARS = 16
NEEDS_TOKENS = "this changes what is served, and needs a client with a token: start the server with `--auth-tokens`"
_HINT = "one token a line, as from `openssl rand -hex 32`; lines that begin with # are comments"

log = logging.getLogger("proteus.tokens")


def digest_of(header: bytes | None) -> bytes:
    """The digest of the token in an ``Authorization`` header; empty where it carries none."""
    scheme, _, token = (header or b"").partition(b" ")
    return sha256(token.strip()).digest() if scheme.lower() == b"bearer" else b""


class Tokens:
    """The tokens of all clients, and the file that `reload` reads them from. Any one of them gives access."""

    def __init__(self, tokens: Iterable[str], path: Path | None = None) -> None:
        self._path = path
        self._digests = _digests(tokens)
        self._watchers: list[Callable[[], None]] = []

    def accepts(self, header: bytes | None) -> bool:
        """Whether an ``Authorization`` header carries a known token."""
        return self.knows(digest_of(header))

    def knows(self, digest: bytes) -> bool:
        """Whether a token has this `digest_of`; the time it takes reveals none."""
        is_known = False
        for known in self._digests:
            is_known |= hmac.compare_digest(known, digest)
        return is_known

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` after each `reload`."""
        self._watchers.append(changed)

    def reload(self) -> None:
        """Read the file again. Raises `ArtefactError`; then the tokens stay as they were."""
        if self._path is not None:
            self._digests = _digests(_read(self._path))
            for changed in self._watchers:
                changed()


def read_tokens(path: Path) -> Tokens:
    """Read a file of tokens, one per line. Raises `ArtefactError`, whose message quotes no token."""
    return Tokens(_read(path), path)


def _digests(tokens: Iterable[str]) -> list[bytes]:
    return [sha256(token.encode()).digest() for token in tokens]


def _read(path: Path) -> list[str]:
    with open_input(path, SETTINGS, hint=_HINT) as file:
        content, mode = read_at_most(file, SETTINGS, str(path), hint=_HINT), os.fstat(file.fileno()).st_mode
    try:
        lines = content.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise ArtefactError(f"`{path}` holds something else than ASCII.", hint=_HINT) from error
    tokens = []
    for number, line in enumerate(lines, 1):
        token = line.strip()
        if not token or token.startswith("#"):
            continue
        if len(token.split()) > 1 or not token.isprintable():
            raise ArtefactError(f"`{path}`, line {number}: a token has no spaces in it.", hint=_HINT)
        if len(token) < MIN_TOKEN_CHARS:
            raise ArtefactError(
                f"`{path}`, line {number}: a token of fewer than {MIN_TOKEN_CHARS} characters can be guessed.",
                hint=_HINT,
            )
        tokens.append(token)
    if not tokens:
        raise ArtefactError(f"`{path}` has no token, so nobody could ask.", hint=_HINT)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning("`%s` can be read by others than its owner; `chmod 600` keeps the tokens secret", path)
    return tokens
