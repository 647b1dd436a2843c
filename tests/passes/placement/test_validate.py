"""The validator refuses what a placement must not be."""

from __future__ import annotations

import pytest

from occ.errors import InternalError
from occ.ir import Placement, PlacementItem
from occ.passes.placement.validate import check_placement

ITEMS = (
    PlacementItem("wrapped", 128, 64, ((0, 2), (8, 9))),
    PlacementItem("middle", 128, 64, ((2, 8),)),
    PlacementItem("late", 64, 64, ((7, 9),)),
)


def placed(*offsets: int, height: int = 192, bound: int = 192) -> Placement:
    return Placement(offsets, height, bound, False, "dive")


def test_a_good_placement_passes() -> None:
    check_placement(ITEMS, placed(0, 0, 128))


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (placed(0, 0), "3 items has 2 offsets"),
        (placed(0, 0, 100), "'late' at offset 100 is not a multiple of 64 bytes"),
        (placed(0, 0, -64), "offset -64"),
        (placed(0, 0, 64), "'late' at bytes .64, 128. overlaps 'middle' at .0, 128. in step 7"),
        (placed(64, 0, 128), "'wrapped'.*overlaps.*'late'.*in step 8"),
        (placed(0, 0, 128, height=256), "height 256 and ends at 192"),
        (placed(0, 0, 128, bound=256), "below its bound 256"),
    ],
)
def test_a_bad_placement_is_refused(bad: Placement, text: str) -> None:
    with pytest.raises(InternalError, match=text):
        check_placement(ITEMS, bad)
