"""Bearer tokens, kept as SHA-256 digests and compared in constant time."""

import hmac
import logging
import os
import stat
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import SETTINGS, open_input, read_at_most

MIN_TOKEN_CHARS = 16
NEEDS_TOKENS = "this changes what is served, and needs a client with a token: start the server with `--auth-tokens`"
_HINT = "one token a line, as from `openssl rand -hex 32`; lines that begin with # are comments"

log = logging.getLogger("proteus.tokens")


class Tokens:
    """The tokens of all clients; any one of them gives access."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = [sha256(token.encode()).digest() for token in tokens]

    def accepts(self, header: bytes | None) -> bool:
        """Whether an ``Authorization`` header carries a known token; the time it takes reveals none."""
        scheme, _, token = (header or b"").partition(b" ")
        digest, is_known = sha256(token.strip()).digest(), False
        for known in self._digests:
            is_known |= hmac.compare_digest(known, digest)
        return is_known and scheme.lower() == b"bearer"


def read_tokens(path: Path) -> Tokens:
    """Read a file of tokens, one per line. Raises `ArtefactError`, whose message quotes no token."""
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
    return Tokens(tokens)
