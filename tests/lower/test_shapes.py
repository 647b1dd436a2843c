"""Views, joining, padding, indexing, pooling and resampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.lower.comparing import Apply, check, check_all, fallbacks, kernels_of

Table = dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]]


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


X, Y = numbers(3, 4, 6), numbers(3, 4, 6).cos()
ROW, PICTURE, VOLUME = numbers(2, 5, 9), numbers(2, 5, 8, 9), numbers(1, 2, 4, 5, 6)
INDEX = torch.tensor([2, 0, 2])
MASK = X > 0
SMOOTH = torch.ones(5, 5, 1, 1) / 5


def convolved(x: Tensor) -> Tensor:
    """A picture in the layout of convolutions."""
    return F.conv2d(x, SMOOTH)


VIEWS: Table = {
    "view": (lambda x: (x.sin().view(12, 6) + 1).view(-1), (X,)),
    "view of a transposed tensor": (lambda x: x.sin().mT.reshape(3, 24) * 2, (X,)),
    "view of a slice": (lambda x: x.sin()[:, 1:3].reshape(-1) * 2, (X,)),
    "flatten, unflatten": (lambda x: x.sin().flatten(1).unflatten(1, (2, 12)).exp(), (X,)),
    "squeeze": (lambda x: x[None, :, None].sin().squeeze().squeeze(0).unsqueeze(-1) + 1, (X,)),
    "permute": (lambda x: x.sin().permute(2, 0, 1).exp().transpose(0, 1).contiguous() + 1, (X,)),
    "slices": (lambda x: x.sin()[1:, ::2, -3:] + x.cos()[:2, 1::2, :3], (X,)),
    "select": (lambda x: x.sin()[0] + x.sin()[-1] * x[1, 2, 3], (X,)),
    "unbind": (lambda x: sum(part.exp() for part in x.sin().unbind(1)), (X,)),
    "chunk": (lambda x: torch.sub(*x.sin().chunk(2, 1)), (X,)),
    "uneven chunk": (lambda x: [part + 1 for part in x.sin().chunk(4, 2)], (X,)),
    "split": (lambda x: [part * 2 for part in x.sin().split([1, 2, 3], -1)], (X,)),
    "tensor split": (lambda x: [part * 2 for part in x.sin().tensor_split(4, -1)], (X,)),
    "expand": (lambda x: x.sin()[:, :1].expand(3, 4, 6) + x.sin()[0, 0, 0].expand(2, 3, 4, 6), (X,)),
    "expand, then view": (lambda x: x.sin()[:, None].expand(3, 2, 4, 6).reshape(6, 4, 6) + 1, (X,)),
    "expand as": (lambda x, y: x.sin()[:, :1].expand_as(y) * y.view_as(x), (X, Y)),
    "diagonal": (lambda x: x.sin().diagonal(0, 1, 2) + 1, (X,)),
    "unfold": (lambda x: x.sin().unfold(2, 3, 2).sum(-1), (X,)),
    "as strided": (lambda x: x.sin().as_strided((2, 3), (6, 2), 3) + 1, (X,)),
    "as strided of another layout": (lambda x: convolved(x).as_strided((2, 3), (6, 2), 3) + 1, (PICTURE,)),
    "movedim, swapaxes": (lambda x: x.sin().movedim(0, 2).swapaxes(0, 1).exp(), (X,)),
    "narrow": (lambda x: x.sin().narrow(1, 1, 2) * 2, (X,)),
    "repeat": (lambda x: x.sin().repeat(2, 1, 3) + x.repeat(1, 2, 1, 1)[0].repeat(1, 1, 3)[:1], (X,)),
    "repeat interleave": (lambda x: x.sin().repeat_interleave(2, 1), (X,)),
    "tile": (lambda x: x.tile(2, 2), (X,)),
    "of convolutions": (lambda x: convolved(x).flatten(2).transpose(1, 2) + 1, (PICTURE,)),
    "view after convolution": (lambda x: convolved(x).view(2, 5, 72).softmax(-1), (PICTURE,)),
    "channel shuffle": (lambda x: F.channel_shuffle(F.pad(convolved(x), (0, 0, 0, 0, 0, 1)), 3), (PICTURE,)),
    "pixel shuffle": (lambda x: F.pixel_unshuffle(F.pixel_shuffle(x[:, :4], 2), 2), (PICTURE,)),
    "views of weights": (
        Apply(lambda x, w: x + w.t()[1:, None] + w[1, 2:3], w=numbers(6, 4)),
        (numbers(3, 1, 6),),
    ),
    "broadcast tensors": (lambda x: [t + 1 for t in torch.broadcast_tensors(x[:, :1], x[0])], (X,)),
    "blocks": (lambda x: x.sin().view(3, 2, 2, 3, 2).permute(0, 1, 3, 2, 4).reshape(3, 6, 4) + 1, (X,)),
    "0-d": (lambda x: x.sum().view(1, 1).expand(2, 3) + x.sum().reshape(()), (X,)),
}

JOINS: Table = {
    "cat": (lambda x, y: torch.cat([x.sin(), y.exp(), x.cos()], 0), (X, Y)),
    "cat inside": (lambda x, y: torch.cat([x.sin(), y.exp()], 1) + 1, (X, Y)),
    "cat last": (lambda x, y: torch.cat([x.sin(), y], -1) * 2, (X, Y)),
    "cat of inputs": (lambda x, y: torch.cat([x, y], 1), (X, Y)),
    "cat of a tensor with itself": (lambda x: torch.cat([z := x.sin(), z, z]), (X,)),
    "cat of views": (lambda x: torch.cat([x.sin()[:, 2:], x.cos()[:, :2]], 1).exp(), (X,)),
    "rotated halves": (lambda x: torch.cat([-(z := x.sin())[..., 3:], z[..., :3]], -1) * x, (X,)),
    "cat of a part that is used": (lambda x: torch.cat([z := x.sin(), x.cos()]).sum() + z, (X,)),
    "cat of a part that is changed": (lambda x: torch.cat([(z := x.sin()), z.relu(), z.exp()]) + 1, (X,)),
    "cat of cats": (lambda x: torch.cat([torch.cat([x.sin(), x.cos()]), torch.cat([x.exp(), x])]) * 2, (X,)),
    "growing cat": (
        lambda x: torch.cat([a := torch.cat([x.sin(), x.cos()], 1), torch.tanh(a).sum(1, True)], 1) * 2,
        (X,),
    ),
    "one part": (lambda x: torch.cat([x.sin()]) + 1, (X,)),
    "types": (lambda x, i: torch.cat([x[0, :3], i.expand(3, 6)]), (X, torch.arange(6))),
    "empty parts": (lambda x: torch.cat([x[:, :0], x.sin(), torch.empty(0), x[:, 4:]], 1), (X,)),
    "of weights": (Apply(lambda x, w: torch.cat([w.expand(3, 1, 6), x.sin()], 1), w=numbers(1, 1, 6)), (X,)),
    "of convolutions": (lambda x: torch.cat([convolved(x), convolved(x.sin()), x], 1).relu(), (PICTURE,)),
    "of a convolution and a transposed": (lambda x: torch.cat([convolved(x), x.mT.mT.exp()], 2), (PICTURE,)),
    "of one channel each": (lambda x: torch.cat([convolved(x)[:, :1], x[:, :1].sin()], 1) * 2, (PICTURE,)),
    "batch of one": (lambda x: torch.cat([x[:1].sin(), x[:1].cos()], 1) * 2, (PICTURE,)),
    "stack": (
        lambda x, y: (
            torch.stack([x.sin(), y.exp()], 1)
            + torch.stack([x, y], -1).mT.mean(2, True)[:, None, 0, 0, 0, None, None]
        ),
        (X, Y),
    ),
    "hstack, vstack": (
        lambda x, y: torch.hstack([x, y]) + torch.vstack([x[:1], y])[:1, :1].expand(3, 8, 6),
        (X, Y),
    ),
    "column stack": (lambda x: torch.column_stack([x[0, 0], x[1, 1].sin()]), (X,)),
    "block diagonal": (lambda x: torch.block_diag(x[0], x[1, :, :2]), (X,)),
}

PADS: Table = {
    "zero": (lambda x: F.pad(x.sin(), (1, 2)) * 2, (ROW,)),
    "two dimensions": (lambda x: F.pad(x, (1, 0, 2, 1), value=3.0) + 1, (PICTURE,)),
    "convolved": (lambda x: F.pad(convolved(x), (1, 1, 0, 2)), (PICTURE,)),
    "negative": (lambda x: F.pad(x, (-1, 2)) + 1, (ROW,)),
    "nothing": (lambda x: F.pad(x, (0, 0)) + 1, (ROW,)),
    "infinite": (lambda x: F.pad(x, (1, 1), value=-torch.inf), (ROW,)),
    "integers": (lambda x: F.pad(x, (1, 1), value=7), (torch.arange(6).view(2, 3),)),
    "reflect": (lambda x: F.pad(x, (2, 1, 1, 2), "reflect") + 1, (PICTURE,)),
    "replicate": (lambda x: F.pad(x, (2, 1), "replicate"), (ROW,)),
    "circular": (lambda x: F.pad(x, (2, 1, 1, 1), "circular") + 1, (PICTURE,)),
    "of volumes": (lambda x: F.pad(x, (1, 1, 1, 1, 0, 1), "replicate"), (VOLUME,)),
}

INDEXED: Table = {
    "rows": (lambda x, i: x.sin()[i] + x[i], (X, INDEX)),
    "columns": (lambda x, i: x.sin()[:, i] * 2, (X, INDEX)),
    "last": (lambda x, i: x[..., i].exp(), (X, INDEX)),
    "pairs": (lambda x, i: x.sin()[i, i] + x[i, :, i][:, :1], (X, INDEX)),
    "2-d indices": (lambda x, i: x[i[:, None], i[None, :]] + 1, (X, INDEX)),
    "negative indices": (lambda x, i: x[-i - 1] + 1, (X, INDEX)),
    "constant index": (lambda x: x[:, [3, 0]] + x[[0, 1, 1]][:, 1:3], (X,)),
    "32-bit indices": (lambda x, i: x[i] + x.index_select(0, i), (X, INDEX.int())),
    "index_select": (lambda x, i: x.index_select(1, i) + x.sin().index_select(1, i), (X, INDEX)),
    "gather": (lambda x, i: x.gather(1, i.view(3, 1, 1).expand(3, 1, 6)) + 1, (X, INDEX)),
    "take along": (lambda x: torch.take_along_dim(x, x.argsort(1), 1), (X,)),
    "take": (lambda x, i: x.take(i) + 1, (X, INDEX)),
    "scatter": (lambda x, i: x.sin().scatter(1, i.view(3, 1, 1).expand(3, 1, 6), 5.0), (X, INDEX)),
    "scatter of a tensor": (
        lambda x, i: x.scatter(0, i.view(3, 1, 1).expand(3, 4, 6), x.exp()),
        (X, torch.tensor([2, 0, 1])),
    ),
    "scatter of itself": (
        lambda x, i: (z := x.sin()).scatter(0, i.view(3, 1, 1).expand(3, 4, 6), z),
        (X, torch.tensor([2, 0, 1])),
    ),
    "scatter add": (
        lambda x, i: torch.zeros(4, 6).scatter_add(0, i.view(3, 1).expand(3, 6), x[:, 0]),
        (X, INDEX),
    ),
    "scatter reduce": (
        lambda x, i: x[0].scatter_reduce(0, i.view(3, 1).expand(3, 6), x[:, 0], "amax"),
        (X, INDEX),
    ),
    "index add": (lambda x, i: x.sin().index_add(1, i, x[:, :3], alpha=2), (X, INDEX)),
    "index add of itself": (lambda x, i: (z := x.sin()).index_add(0, i, z), (X, INDEX)),
    "index copy": (lambda x, i: x.index_copy(1, i, x[:, :3] * 2), (X, torch.tensor([3, 0, 2]))),
    "index copy of itself": (
        lambda x, i: (z := x.sin()).index_copy(0, i, z) + 1,
        (X, torch.tensor([2, 0, 1])),
    ),
    "index fill": (lambda x, i: x.index_fill(1, i, 2.0), (X, INDEX)),
    "index put": (lambda x, i: x.sin().index_put((i,), x[0]), (X, torch.tensor([2, 0, 1]))),
    "index put inside": (lambda x, i: x.index_put((i, i), x[0, 0]) + 1, (X, torch.tensor([2, 0, 1]))),
    "index put, second": (
        lambda x, i: torch.ops.aten.index_put(x, [None, i], x[:, 1:]),
        (X, torch.tensor([2, 0, 1])),
    ),
    "accumulated": (lambda x, i: x.index_put((i,), x[0] * 2, accumulate=True), (X, INDEX)),
    "assigned": (lambda x: assigned(x), (X,)),
    "assigned by mask": (lambda x: assigned_by_mask(x), (X,)),
    "masked fill of itself": (lambda b: (c := ~b).masked_fill(c, False), (MASK,)),
    "masked scatter": (lambda x, m: x.sin().masked_scatter(m, x.exp()), (X, MASK)),
    "slice scatter": (lambda x: x.sin().slice_scatter(x[:, :2], 1, 1, 3), (X,)),
    "slice scatter of a slice of itself": (
        lambda x: (z := x.sin()).slice_scatter(z[:, :2], 1, 1, 3) * 2,
        (X,),
    ),
    "select scatter": (lambda x: x.sin().select_scatter(x[:, 0], 1, -1) + 1, (X,)),
    "diagonal scatter": (lambda x: x[:, :3, :3].diagonal_scatter(x[:, :3, 0], 0, 1, 2), (X,)),
    "flip": (lambda x: x.sin().flip(0, 2) + x.fliplr() + torch.rot90(x, 2, (1, 2)), (X,)),
    "roll": (lambda x: x.sin().roll(1, 1) + x.roll((1, -2), (0, 2)) + x.roll(5), (X,)),
    "searchsorted": (lambda x: torch.searchsorted(x[0, 0].sort()[0], x[1]), (X,)),
    "triangle": (lambda x: x.tril(1) + x.triu(), (X,)),
    "tril indices": (lambda x: x[0][tuple(torch.tril_indices(4, 4))] + 1, (X,)),
    "grid sample": (lambda x, g: F.grid_sample(x, g, align_corners=False), (PICTURE, numbers(2, 3, 4, 2))),
    "affine grid": (lambda t: F.affine_grid(t, [2, 5, 3, 4], align_corners=False), (numbers(2, 2, 3),)),
}


def assigned(x: Tensor) -> Tensor:
    """The user's own updates of views."""
    y = x.sin()
    y[:, 0] = 1.0
    y[0, 1:3] += x[1, 1:3]
    y[..., -1].mul_(2)
    y.view(-1)[5:9].zero_()
    y.t_() if y.dim() == 2 else y.transpose_(1, 2)
    return y + 1


def assigned_by_mask(x: Tensor) -> Tensor:
    y = x.clone()
    y[y > 1] = 0.0
    y[:, torch.tensor([1, 3])] = x[:, :2]
    return y


POOLS: Table = {
    "max": (lambda x: F.max_pool2d(x, 2) + F.max_pool2d(x.sin(), (2, 2), (2, 2)), (PICTURE,)),
    "max, padded": (lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), (PICTURE,)),
    "max, dilated": (lambda x: F.max_pool2d(convolved(x), 2, 1, dilation=2), (PICTURE,)),
    "max with indices": (lambda x: F.max_pool2d(x, 2, return_indices=True), (PICTURE,)),
    "max, indices alone": (lambda x: F.max_pool2d(x, 2, return_indices=True)[1], (PICTURE,)),
    "unpooled": (lambda x: F.max_unpool2d(*F.max_pool2d(x[..., :8], 2, return_indices=True), 2), (PICTURE,)),
    "max of rows": (lambda x: F.max_pool1d(x, 3, 2, 1), (ROW,)),
    "max of volumes": (lambda x: F.max_pool3d(x, 2), (VOLUME,)),
    "max, unbatched": (lambda x: F.max_pool2d(x[0], 2), (PICTURE,)),
    "average": (
        lambda x: (
            F.avg_pool2d(x, 2) + F.avg_pool2d(convolved(x), 3, 2, 1, count_include_pad=False)[:, :, :4, :4]
        ),
        (PICTURE,),
    ),
    "average of rows": (lambda x: F.avg_pool1d(x, 3, 2), (ROW,)),
    "average of volumes": (lambda x: F.avg_pool3d(x, 2), (VOLUME,)),
    "average, unbatched": (lambda x: F.avg_pool2d(x[0], 3, 1, 1), (PICTURE,)),
    "adaptive": (lambda x: (F.adaptive_avg_pool2d(x, (3, 4)), F.adaptive_avg_pool2d(x, 1)), (PICTURE,)),
    "adaptive, convolved": (
        lambda x: (F.adaptive_avg_pool2d(y := convolved(x), (3, 4)), F.adaptive_avg_pool2d(y, 1)),
        (PICTURE,),
    ),
    "adaptive of volumes": (
        lambda x: (F.adaptive_avg_pool3d(x, (2, 3, 4)), F.adaptive_avg_pool3d(x, 1)),
        (VOLUME,),
    ),
    "adaptive of convolved volumes": (
        lambda x: F.adaptive_avg_pool3d(F.conv3d(x, torch.ones(2, 2, 1, 1, 1)), (2, 3, 4)),
        (VOLUME,),
    ),
    "adaptive of rows": (lambda x: (F.adaptive_avg_pool1d(x, 4), F.adaptive_max_pool1d(x, 3)), (ROW,)),
    "adaptive, unbatched": (lambda x: F.adaptive_avg_pool2d(x[0], (3, 4)), (PICTURE,)),
    "adaptive max": (lambda x: F.adaptive_max_pool2d(x, (3, 4)), (PICTURE,)),
    "power": (lambda x: F.lp_pool2d(x.abs(), 2, 2), (PICTURE,)),
}

RESAMPLED: Table = {
    **{
        f"{mode} {how}": (
            lambda x, mode=mode, size=size, factor=factor, align=align: F.interpolate(
                x, size, factor, mode, align_corners=align
            ),
            (x,),
        )
        for mode, x, sizes in (
            ("nearest", ROW, (15,)),
            ("linear", ROW, (15,)),
            ("nearest", PICTURE, (11, 13)),
            ("bilinear", PICTURE, (11, 13)),
            ("bicubic", PICTURE, (11, 13)),
            ("nearest", VOLUME, (5, 6, 7)),
            ("trilinear", VOLUME, (5, 6, 7)),
            ("nearest-exact", PICTURE, (11, 13)),
            ("area", PICTURE, (4, 5)),
        )
        for how, size, factor, align in (
            (f"{x.dim()}-d to a size", sizes, None, None),
            (f"{x.dim()}-d by 1.7", None, 1.7, None),
            *(
                [(f"{x.dim()}-d aligned", sizes, None, True)]
                if mode in ("linear", "bilinear", "bicubic", "trilinear")
                else []
            ),
        )
    },
    "factors": (lambda x: F.interpolate(x, scale_factor=(2.0, 0.5)), (PICTURE,)),
    "recomputed factor": (
        lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True),
        (PICTURE,),
    ),
    "antialiased": (lambda x: F.interpolate(x, (5, 4), mode="bilinear", antialias=True), (PICTURE,)),
    "convolved": (lambda x: F.interpolate(convolved(x), scale_factor=2, mode="nearest") + 1, (PICTURE,)),
    "convolved, smooth": (lambda x: F.interpolate(convolved(x), (5, 7), mode="bilinear") + 1, (PICTURE,)),
    "up and down": (lambda x: F.interpolate(F.interpolate(x, (4, 4)), (8, 9), mode="bicubic"), (PICTURE,)),
}

TOKENS = torch.tensor([[1, 4, 0], [7, 7, 2]])

EMBEDDINGS: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "plain": (nn.Embedding(9, 5), (TOKENS,)),
    "padding": (nn.Embedding(9, 5, padding_idx=0), (TOKENS,)),
    "one token": (nn.Embedding(9, 5), (torch.tensor(4),)),
    "32 bits": (nn.Embedding(9, 5), (TOKENS.int(),)),
    "transposed tokens": (Apply(lambda i, w: F.embedding(i.t(), w), w=numbers(9, 5)), (TOKENS,)),
    "computed tokens": (Apply(lambda x, w: F.embedding(x.argmax(-1), w), w=numbers(9, 5)), (numbers(4, 9),)),
    "computed table": (Apply(lambda i, x, w: F.embedding(i, w + x), w=numbers(9, 5)), (TOKENS, numbers(5))),
    "tied to the head": (
        Apply(lambda i, w: F.linear(torch.tanh(F.embedding(i, w)), w), w=numbers(9, 5)),
        (TOKENS,),
    ),
    "bag": (nn.EmbeddingBag(9, 5, mode="sum"), (TOKENS,)),
    "bfloat16": (nn.Embedding(9, 5).bfloat16(), (TOKENS,)),
}


def test_views() -> None:
    program = check_all(VIEWS)
    assert not fallbacks(program)


def test_joins() -> None:
    program = check_all(JOINS)
    assert {op.split(".")[0] for op in fallbacks(program)} <= {"block_diag"}


def test_pads() -> None:
    check_all(PADS)


def test_indexed() -> None:
    check_all(INDEXED)


def test_pools() -> None:
    check_all(POOLS)


def test_resampled() -> None:
    check_all(RESAMPLED)


def test_embeddings() -> None:
    check_all(EMBEDDINGS)


def test_views_take_no_step() -> None:
    def function(x: Tensor) -> Tensor:
        y = torch.tanh(x).view(3, 2, 2, 6).transpose(1, 2)[:, :, 1].unbind(1)[1].unsqueeze(1)
        return y.expand(3, 4, 6).exp()

    program = check(function, X)
    assert kernels_of(program) == {"tanh": 1, "exp": 1}
