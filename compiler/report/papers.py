"""What is reported of systems that trade latency for memory in inference, for comparison with a curve."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Reference(str, Enum):
    """What a reported latency is a multiple of."""

    RESIDENT = "the same system with everything in memory"
    EAGER = "PyTorch"


@dataclass(frozen=True, slots=True)
class Reported:
    """A result as its authors give it, on machines and networks of theirs.

    `memory` is the share of what was needed without the system, from and to; `latency` the factor on
    `reference`'s, None where it is reported in another way. `text` is the claim.
    """

    name: str
    venue: str
    memory: tuple[float, float]
    latency: float | None
    reference: Reference
    text: str


REPORTED = (
    Reported(
        "Demand Layering",
        "RTSS 2022",
        (1 - 0.965, 1 - 0.965),
        1.148,
        Reference.RESIDENT,
        "96.5 % less memory at 14.8 % more latency on average; 88.4 % less at under 1 ms more",
    ),
    Reported(
        "FlexNN",
        "MobiCom 2024",
        (1 - 0.9381, 1 - 0.9381),
        1.0364,
        Reference.RESIDENT,
        "93.81 % less memory at 3.64 % more latency, ResNet-152 on a phone",
    ),
    Reported(
        "SwapNet",
        "2024",
        (1 / 5.81, 1 / 2.32),
        1.0,
        Reference.RESIDENT,
        "nearly unchanged latency where a network needs 2.32 to 5.81 times the budget",
    ),
    Reported(
        "Occamy",
        "DAC 2023",
        (1 - 0.346, 1 - 0.346),
        1 / 1.25,
        Reference.EAGER,
        "34.6 % less memory than PyTorch and 1.25 times as fast on an integrated GPU, six networks",
    ),
    Reported(
        "FlashMem",
        "2026",
        (1 / 8.4, 1 / 2.0),
        None,
        Reference.RESIDENT,
        "2.0 to 8.4 times less memory, 1.7 to 75 times as fast as frameworks that load first, start included",
    ),
)
"""By the latency they give; those without one last."""
