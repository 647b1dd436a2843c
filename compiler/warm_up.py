"""One call of each kind of kernel, on tiny tensors: what that loads belongs to no program."""

from __future__ import annotations

import torch

from occ.runtime_stub import kernels
from occ.runtime_stub.packed import probe


def warm_up() -> None:
    """Call each family of kernels once on tiny tensors: the code and tables that torch, oneDNN and MKL then
    load belong to no program."""
    functional = torch.nn.functional
    with torch.inference_mode():
        picture = torch.ones(1, 16, 8, 8).contiguous(memory_format=torch.channels_last)
        out = torch.empty_like(picture)
        for dtype in (torch.float32, torch.bfloat16):
            matrix = torch.ones(16, 16, dtype=dtype)
            torch.addmm(matrix[0], matrix, matrix, out=torch.empty_like(matrix))
            torch.bmm(matrix[None], matrix[None], out=torch.empty_like(matrix[None]))
            functional.linear(matrix, matrix, matrix[0])
            functional.scaled_dot_product_attention(
                matrix[None, None], matrix[None, None], matrix[None, None]
            )
            functional.layer_norm(matrix, (16,))
            functional.gelu(torch.softmax(matrix, -1), approximate="tanh")
            functional.silu(matrix).mul_(torch.rsqrt(matrix)).add_(torch.sin(matrix))
        kernels.convolution(
            picture, torch.ones(16, 16, 1, 1), None, (1, 1), (0, 0), (1, 1), 1, True, None, out
        )
        functional.max_pool2d(picture, 2)
        functional.avg_pool2d(picture, 2)
        functional.conv_transpose2d(picture, torch.ones(16, 16, 2, 2), stride=2)
        functional.interpolate(picture, scale_factor=2)
        functional.hardswish(functional.hardsigmoid(picture))
        functional.group_norm(picture, 4)
        torch.cat([picture, picture], 1)
        torch.lstm(
            torch.ones(2, 1, 4),
            [torch.zeros(1, 1, 4), torch.zeros(1, 1, 4)],
            [torch.ones(16, 4), torch.ones(16, 4), torch.ones(16), torch.ones(16)],
            True,
            1,
            0.0,
            False,
            False,
            False,
        )
        rows = torch.zeros(2, dtype=torch.int64)
        torch.index_select(matrix, 0, rows).copy_(functional.embedding(rows, matrix))
        torch.where(matrix > 0, matrix, matrix).float().argmax()
        probe()
