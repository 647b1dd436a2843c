"""Attention that never holds the matrix of scores: softmax over one block of keys after another, with a
running maximum and sum for each query (M. Milakov and N. Gimelshein, 2018; T. Dao, FlashAttention-2,
2023)."""

import triton
import triton.language as tl


@triton.jit
def attend_to_block(
    running, query, key, value, mask, row, columns, first, size, value_size,
    MASKED: tl.constexpr, KEYS: tl.constexpr, SIZE: tl.constexpr, VALUE_SIZE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, BLOCK_VALUE: tl.constexpr, KEY_ROW: tl.constexpr, KEY_COLUMN: tl.constexpr,
    VALUE_ROW: tl.constexpr, VALUE_COLUMN: tl.constexpr, MASK: tl.constexpr, MASK_ROW: tl.constexpr,
    MASK_COLUMN: tl.constexpr, ROWS: tl.constexpr, CAUSAL: tl.constexpr, FIRST: tl.constexpr,
    SCALE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # `running`: the sum of weighted values, the maximum and the sum of weights. With MASKED some of the
    # block's keys are not there, or not seen.
    LOG2E: tl.constexpr = 1.4426950408889634
    total, most, weights = running
    n = first + columns
    at_keys = key + (size[:, None] * KEY_COLUMN + n[None, :] * KEY_ROW)
    at_values = value + (n[:, None] * VALUE_ROW + value_size[None, :] * VALUE_COLUMN)
    if MASKED and BLOCK_SIZE == SIZE:
        k = tl.load(at_keys, mask=n[None, :] < KEYS, other=0.0)
    elif MASKED:
        k = tl.load(at_keys, mask=(n[None, :] < KEYS) & (size[:, None] < SIZE), other=0.0)
    elif BLOCK_SIZE == SIZE:
        k = tl.load(at_keys)
    else:
        k = tl.load(at_keys, mask=size[:, None] < SIZE, other=0.0)
    scores = tl.dot(query, k, input_precision=PRECISION)
    if MASK == "numbers":
        # Added before the scale of powers of two: the least float would become infinite by it.
        scores = scores * SCALE
    elif SCALE <= 0.0:
        scores = scores * (SCALE * LOG2E)
    if MASK != "none":
        if MASK_ROW == 0:
            seen = tl.load(mask + n * MASK_COLUMN, mask=n < KEYS, other=0)[None, :]
        else:
            at_mask = mask + (row[:, None] * MASK_ROW + n[None, :] * MASK_COLUMN)
            seen = tl.load(at_mask, mask=(row[:, None] < ROWS) & (n[None, :] < KEYS), other=0)
        if MASK == "numbers":
            scores += seen.to(tl.float32)
        else:
            scores = tl.where(seen, scores, -float("inf"))
    if MASKED:
        there = n[None, :] < KEYS
        if CAUSAL:
            there = there & (n[None, :] <= row[:, None] + FIRST)
        scores = tl.where(there, scores, -float("inf"))
    highest = tl.max(scores, 1)
    if MASK == "numbers":
        now = tl.maximum(most, highest)
        base = tl.where(now == -float("inf"), 0.0, now)
        p = tl.exp2((scores - base[:, None]) * LOG2E)
        again = tl.exp2((most - base) * LOG2E)
    elif SCALE <= 0.0:
        now = tl.maximum(most, highest)
        base = tl.where(now == -float("inf"), 0.0, now)
        p = tl.exp2(scores - base[:, None])
        again = tl.exp2(most - base)
    else:
        # One multiplication and subtraction for each score.
        now = tl.maximum(most, highest * (SCALE * LOG2E))
        base = tl.where(now == -float("inf"), 0.0, now) if MASKED or MASK != "none" else now
        p = tl.exp2(scores * (SCALE * LOG2E) - base[:, None])
        again = tl.exp2(most - base)
    weights = weights * again + tl.sum(p, 1)
    total = total * again[:, None]
    if MASKED and BLOCK_VALUE == VALUE_SIZE:
        v = tl.load(at_values, mask=n[:, None] < KEYS, other=0.0)
    elif MASKED:
        v = tl.load(at_values, mask=(n[:, None] < KEYS) & (value_size[None, :] < VALUE_SIZE), other=0.0)
    elif BLOCK_VALUE == VALUE_SIZE:
        v = tl.load(at_values)
    else:
        v = tl.load(at_values, mask=value_size[None, :] < VALUE_SIZE, other=0.0)
    total = tl.dot(p.to(v.dtype), v, total, input_precision=PRECISION)
    return total, now, weights


@triton.jit
def attend(
    query, key, value, mask, out,
    HEADS: tl.constexpr, GROUP: tl.constexpr, TOGETHER: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    SIZE: tl.constexpr, VALUE_SIZE: tl.constexpr, CAUSAL: tl.constexpr, FIRST: tl.constexpr,
    SCALE: tl.constexpr, MASK: tl.constexpr, UNSEEN: tl.constexpr, PRECISION: tl.constexpr,
    QUERY_BATCH: tl.constexpr, QUERY_HEAD: tl.constexpr, QUERY_ROW: tl.constexpr, QUERY_COLUMN: tl.constexpr,
    KEY_BATCH: tl.constexpr, KEY_HEAD: tl.constexpr, KEY_ROW: tl.constexpr, KEY_COLUMN: tl.constexpr,
    VALUE_BATCH: tl.constexpr, VALUE_HEAD: tl.constexpr, VALUE_ROW: tl.constexpr, VALUE_COLUMN: tl.constexpr,
    MASK_BATCH: tl.constexpr, MASK_HEAD: tl.constexpr, MASK_ROW: tl.constexpr, MASK_COLUMN: tl.constexpr,
    OUT_BATCH: tl.constexpr, OUT_HEAD: tl.constexpr, OUT_ROW: tl.constexpr, OUT_COLUMN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK_VALUE: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    # A program computes BLOCK_ROWS queries of one head, or of TOGETHER heads that share keys. Causal: query i
    # sees keys 0..FIRST + i; the queries that see the most come first, so that the last programs are short.
    BLOCKS: tl.constexpr = (TOGETHER * ROWS + BLOCK_ROWS - 1) // BLOCK_ROWS
    block = tl.program_id(0) % BLOCKS
    place = tl.program_id(0) // BLOCKS
    if CAUSAL:
        block = BLOCKS - 1 - block
    batch = (place // (HEADS // TOGETHER)).to(tl.int64)
    head = (place % (HEADS // TOGETHER) * TOGETHER).to(tl.int64)
    m = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.arange(0, BLOCK_KEYS)
    if WIDE:
        m = m.to(tl.int64)
        columns = columns.to(tl.int64)
    row = m % ROWS if TOGETHER > 1 else m
    inside = m < TOGETHER * ROWS
    size = tl.arange(0, BLOCK_SIZE)
    value_size = tl.arange(0, BLOCK_VALUE)
    key += batch * KEY_BATCH + (head // GROUP) * KEY_HEAD
    value += batch * VALUE_BATCH + (head // GROUP) * VALUE_HEAD
    at_queries = query + (batch * QUERY_BATCH + head * QUERY_HEAD)
    at_out = out + (batch * OUT_BATCH + head * OUT_HEAD)
    if MASK != "none":
        mask += batch * MASK_BATCH + head * MASK_HEAD
    rows = row[:, None] * QUERY_ROW
    out_rows = row[:, None] * OUT_ROW
    if TOGETHER > 1:
        rows += (m // ROWS)[:, None] * QUERY_HEAD
        out_rows += (m // ROWS)[:, None] * OUT_HEAD
    q = tl.load(
        at_queries + (rows + size[None, :] * QUERY_COLUMN),
        mask=inside[:, None] & (size[None, :] < SIZE),
        other=0.0,
    )
    total = tl.zeros([BLOCK_ROWS, BLOCK_VALUE], tl.float32)
    most = tl.full([BLOCK_ROWS], -float("inf"), tl.float32)
    weights = tl.zeros([BLOCK_ROWS], tl.float32)
    end = KEYS
    whole = KEYS // BLOCK_KEYS * BLOCK_KEYS
    if CAUSAL:
        least = 0 if TOGETHER > 1 else block * BLOCK_ROWS
        largest = ROWS if TOGETHER > 1 else (block + 1) * BLOCK_ROWS
        end = tl.minimum(largest + FIRST, KEYS)
        whole = tl.minimum((least + FIRST + 1) // BLOCK_KEYS * BLOCK_KEYS, whole)
    for first in range(0, whole, BLOCK_KEYS):
        total, most, weights = attend_to_block(
            (total, most, weights), q, key, value, mask, row, columns, first, size, value_size,
            False, KEYS, SIZE, VALUE_SIZE, BLOCK_SIZE, BLOCK_VALUE, KEY_ROW, KEY_COLUMN, VALUE_ROW,
            VALUE_COLUMN, MASK, MASK_ROW, MASK_COLUMN, ROWS, CAUSAL, FIRST, SCALE, PRECISION,
        )  # fmt: skip
    for first in range(whole, end, BLOCK_KEYS):
        total, most, weights = attend_to_block(
            (total, most, weights), q, key, value, mask, row, columns, first, size, value_size,
            True, KEYS, SIZE, VALUE_SIZE, BLOCK_SIZE, BLOCK_VALUE, KEY_ROW, KEY_COLUMN, VALUE_ROW,
            VALUE_COLUMN, MASK, MASK_ROW, MASK_COLUMN, ROWS, CAUSAL, FIRST, SCALE, PRECISION,
        )  # fmt: skip
    total = total * (1.0 / weights)[:, None]
    if UNSEEN == "zero":
        total = tl.where((weights == 0.0)[:, None], 0.0, total)
    tl.store(
        at_out + (out_rows + value_size[None, :] * OUT_COLUMN),
        total,
        mask=inside[:, None] & (value_size[None, :] < VALUE_SIZE),
    )
