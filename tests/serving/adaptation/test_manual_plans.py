"""What a person's plan must fit."""

from pathlib import Path

import pytest
from builders import make_catalog, make_family, make_measured, make_placement, make_plan, make_profile

from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import Unprocessable
from proteus_cli.serving.adaptation.manual_plans import require_fitting

AT_ONCE = {slots: {1: 0.01} for slots in (2, 4)}
MEASURED = [
    make_measured("a", name, accuracy, {1: 0.01}, at_once_s=AT_ONCE, memory_bytes=900, slot_bytes=200)
    for name, accuracy in (("s", 0.8), ("m", 0.9))
]


def required(memory_bytes: int, slots: int) -> tuple[str, Catalog, dict[str, Profile], dict[tuple[str, str], Path]]:
    catalog = make_catalog(make_family("a", {each.variant: each.accuracy for each in MEASURED}))
    profiles = {"gpu0": make_profile("gpu0", *MEASURED, memory_bytes=memory_bytes, slots=slots)}
    return "proteus", catalog, profiles, {each.key: Path(f"{each.variant}.onnx") for each in MEASURED}


@pytest.mark.parametrize(("slots", "needed_bytes"), [(1, 1800), (2, 2200), (4, 3000)])
def test_a_device_has_the_memory_for_its_variants_with_all_slots(slots: int, needed_bytes: int) -> None:
    plan = make_plan(*(make_placement("gpu0", "a", each.variant, max_batch=1) for each in MEASURED))
    require_fitting(plan, *required(needed_bytes, slots))
    with pytest.raises(Unprocessable, match=f"needs {needed_bytes} bytes of memory on `gpu0`"):
        require_fitting(plan, *required(needed_bytes - 1, slots))
