"""Decompression with a bound on the result: a few compressed kilobytes can stand for gigabytes."""

import zlib

from proteus_cli.buffers import Buffer
from proteus_cli.errors import BodyTooLarge, CorruptBody

MAX_STREAMS = 64  # of gzip in one content; an empty one of 20 bytes takes 10 µs
_GZIP_START = b"\x1f"
_GZIP, _GZIP_OR_ZLIB = zlib.MAX_WBITS | 16, zlib.MAX_WBITS | 32  # RFC 1952, RFC 1950


def decompressed(content: Buffer, max_bytes: int, what: str, header: str, *, takes_zlib: bool = False) -> bytearray:
    """The decompressed content, of ``max_bytes`` at most. Errors say ``what`` it is, and the ``header`` that says so.

    gzip may have several streams, one behind the other (RFC 1952, 2.2). Raises `CorruptBody`, `BodyTooLarge`.
    """
    left, found, window_bits = memoryview(content), bytearray(), _GZIP_OR_ZLIB if takes_zlib else _GZIP
    problem = "bytes follow the compressed content"
    for _ in range(MAX_STREAMS):
        is_gzip, stream = left[:1] == _GZIP_START, zlib.decompressobj(window_bits)
        try:
            found += stream.decompress(left, max_bytes - len(found) + 1)
        except zlib.error as error:
            problem = str(error)
            break
        if len(found) > max_bytes:
            raise BodyTooLarge(f"the {what} unpacks to more than {max_bytes} bytes: send it as it is")
        if not stream.eof:
            problem = "the compressed content is cut off"
            break
        left = left[len(left) - len(stream.unused_data) :]
        if not left:
            return found
        if not is_gzip:
            break
        window_bits = _GZIP
    raise CorruptBody(f"the {what} is not what its {header} says: {problem}")
