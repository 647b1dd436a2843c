"""Resemblyzer's speaker encoder with its weights: 1.6 s of speech to a unit vector that stands for the voice.

    python examples/speaker.py                                     tell two synthetic voices apart
    occ compile examples/speaker.py --budget min -o speaker.occ

Three LSTM layers (1.4 M parameters; Wan et al., "Generalized End-to-End Loss for Speaker Verification",
2018) on 160 frames of a mel spectrogram. The weights come from the PyPI package `resemblyzer`
(examples/requirements-speech.txt).
"""

from __future__ import annotations

import math
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

RATE = 16_000
"""Samples a second."""

WINDOW, HOP, MELS, FRAMES = 400, 160, 40, 160
"""Samples of a frame and between two of them; bands of the spectrogram; frames of an input."""

FOLDER = Path(__file__).resolve().parents[1] / "build" / "examples"

VOICES = {"low": (110.0, 1.0), "high": (230.0, 1.25)}
"""Pitch in hertz, and how much higher the formants are than an average man's."""

VOWELS = {"a": (730, 1090, 2440), "e": (530, 1840, 2480), "i": (270, 2290, 3010), "u": (300, 870, 2240)}
"""Formants in hertz (Peterson and Barney, 1952)."""

BANDWIDTH = 80
"""Hertz of a formant."""

SAID = ("aeiuaeiu", "uieauiea")


class SpeakerEncoder(nn.Module):
    """Mel spectrograms [batch, 160, 40] to unit vectors [batch, 256], whose dot products are similarities."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(MELS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(mels)
        return nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=1)


def mel_filters() -> Tensor:
    """Triangular filters of unit area, [MELS, WINDOW // 2 + 1], on Slaney's mel scale: linear up to 1 kHz,
    logarithmic above."""
    step = math.log(6.4) / 27

    def mel(hertz: float) -> float:
        return hertz * 3 / 200 if hertz < 1000 else 15 + math.log(hertz / 1000) / step

    def hertz(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * math.exp(step * (mel - 15))

    top = mel(RATE / 2)
    edges = torch.tensor([hertz(top * i / (MELS + 1)) for i in range(MELS + 2)], dtype=torch.float64)
    bins = torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    return torch.minimum(rising, falling).clamp_min(0) * 2 / (high - low)


def spectrogram(wave: Tensor) -> Tensor:
    """The encoder's input for 1.6 s of sound: power in mel bands, [1, 160, 40]."""
    window = torch.hann_window(WINDOW, dtype=torch.float64)
    power = (
        torch.stft(wave.double(), WINDOW, HOP, window=window, pad_mode="constant", return_complex=True).abs()
        ** 2
    )
    return (mel_filters() @ power).T[None, :FRAMES].float().contiguous()


def speech(voice: str, vowels: str) -> Tensor:
    """A voice that says vowels, 1.6 s: the harmonics of its pitch through resonances at the formants, at
    the loudness that the encoder was trained on (-30 dB)."""
    pitch, stretch = VOICES[voice]
    samples = FRAMES * HOP
    time = torch.arange(samples, dtype=torch.float64) / RATE
    phase = torch.cumsum(pitch * (1 + 0.05 * torch.sin(2 * math.pi * 0.9 * time)) / RATE, 0)
    wave = torch.zeros(samples, dtype=torch.float64)
    length = samples // len(vowels)
    swell = torch.sin(math.pi * torch.arange(length, dtype=torch.float64) / length).sqrt()
    for place, vowel in enumerate(vowels):
        part = slice(place * length, (place + 1) * length)
        formants = [stretch * formant for formant in (*VOWELS[vowel], 3500, 4500)]
        for harmonic in range(1, int(RATE / 2 / pitch)):
            hertz = harmonic * pitch
            gain = 1 / harmonic
            for formant in formants:
                gain *= formant**2 / math.hypot(formant**2 - hertz**2, BANDWIDTH * hertz)
            wave[part] += gain * swell * torch.sin(2 * math.pi * harmonic * phase[part])
    return wave * 10 ** (-30 / 20) / wave.std()


def model() -> nn.Module:
    """The encoder in eval mode with the package's weights."""
    # The package is only a folder with the weights to us; importing it would need a stack of audio packages.
    package = find_spec("resemblyzer")
    if package is None or package.origin is None:
        sys.exit("no package resemblyzer: pip install --no-deps -r examples/requirements-speech.txt")
    path = Path(package.origin).with_name("pretrained.pt")
    stored = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    encoder = SpeakerEncoder()
    encoder.load_state_dict({name: stored[name] for name in encoder.state_dict()})
    return encoder.eval()


def example_inputs() -> tuple[Tensor]:
    return (spectrogram(speech("low", SAID[0])),)


def main() -> None:
    import occ

    FOLDER.mkdir(parents=True, exist_ok=True)
    occ.compile(model(), example_inputs(), "min", FOLDER / "speaker.occ", name="speaker", progress=print)
    with occ.load(FOLDER / "speaker.occ") as encoder:
        heard = {
            (voice, vowels): encoder(spectrogram(speech(voice, vowels)))[0]
            for voice in VOICES
            for vowels in SAID
        }
    same = [float(heard[voice, SAID[0]] @ heard[voice, SAID[1]]) for voice in VOICES]
    other = [float(heard["low", one] @ heard["high", two]) for one in SAID for two in SAID]
    print(f"similarity of a voice with itself, other vowels: {', '.join(f'{x:.2f}' for x in same)}")
    print(f"similarity of the two voices: {', '.join(f'{x:.2f}' for x in other)}")
    if min(same) < max(other) + 0.1:
        sys.exit("the voices are not told apart")


if __name__ == "__main__":
    main()
