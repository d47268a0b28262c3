"""Dictionaries that remember a bounded number of things, and are emptied when full."""

from typing import TypeVar

Key = TypeVar("Key")
Known = TypeVar("Known")


def remember(known: dict[Key, Known], key: Key, value: Known, max_known: int) -> None:
    """Remember a value; where ``max_known`` are remembered already, those are all forgotten first.

    What is still of use is soon known again, and to look it up costs no more than in any dictionary.
    """
    if len(known) >= max_known:
        known.clear()
    known[key] = value
