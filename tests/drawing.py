"""How many examples a property test draws."""

from typing import Any

from hypothesis import settings


def examples(number: int, *, fuzzed: int, **others: Any) -> settings:
    """``number`` in `make test`, whose examples are the same each time; ``fuzzed`` in each round of `make fuzz`."""
    is_fuzzed = settings.get_current_profile_name() == "new examples"
    return settings(max_examples=fuzzed if is_fuzzed else number, **others)
