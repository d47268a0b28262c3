"""Names of studies that nobody has named."""

from zlib import crc32

from proteus_cli.domain.catalog import LONGEST_NAME
from proteus_cli.studies.study import CellMode


def default_name(kind: str, *parts: str, mode: CellMode = "measured") -> str:
    """What is studied, and how where nothing is measured: ``peak-digits-cpu0-simulated``.

    One that is too long ends in a checksum of all of it.
    """
    name = "-".join((kind, *parts, *([] if mode == "measured" else [mode]))).replace("/", "-")
    if len(name) <= LONGEST_NAME:
        return name
    checksum = f"-{crc32(name.encode()):08x}"
    return name[: LONGEST_NAME - len(checksum)] + checksum
