"""What all scenarios import, and no wrong adapter changes: it knows no driver."""

import asyncio  # noqa: F401
import sys

import numpy  # noqa: F401, ICN001
import pytest  # noqa: F401
import tiny  # noqa: F401
from contract.runtime import wrong_adapters

EARLY = {edit.module for wrong in wrong_adapters.WRONG_ADAPTERS.values() for edit in wrong.edits} & {*sys.modules}
assert not EARLY, f"imported before it can be changed: {EARLY}"
