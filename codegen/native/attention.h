// Attention that never holds the matrix of scores: softmax over one block of keys after another, with a running
// maximum and sum for each query (M. Milakov and N. Gimelshein, 2018; T. Dao, FlashAttention-2, 2023).
//
// Many queries: they lie in the lanes of vectors, transposed once for each block of them, so that maximum, sum and
// exponentials need no work across lanes, and keys and values are read where they are, an element at a time for
// all queries. Few queries (decoding): elements of a key or value lie in the lanes, and the query heads that share
// it take it together.

enum { BLOCK_KEYS = 64, STACK_FLOATS = 16384, ROWS_AT_ONCE = 8, SMALL_WORK = 1 << 16 };

// Strides, in elements: of batches, heads, rows, and elements of a row (of the mask: batches, heads, queries, keys).
typedef struct {
    const void *query, *key, *value, *mask;
    void *out;
    int type, mask_type, causal;
    float scale, unseen;  // what a query that sees no key gets
    long first_row;  // causal: query i sees keys 0..first_row + i
    long batches, heads, group, rows, keys, size, value_size;
    long query_strides[4], key_strides[4], value_strides[4], mask_strides[4], out_strides[4];
} attention_t;

// Products ------------------------------------------------------------------------------------------------------

// into[r][c] (+)= the sum over t < count of x[t][c] * y[r][t], for vectors c: x has `x_step` floats from t to
// t + 1, y `y_row` from row to row and `y_step` from t to t + 1, into `into_row` from row to row.
#define TILE_PARAMETERS                                                                                       \
    const float *x, long x_step, const float *y, long y_row, long y_step, long count, float *into, long into_row, \
        int fresh

INLINE void tile(const int R, const int C, TILE_PARAMETERS) {
    vf sum[8][4];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) sum[r][c] = fresh ? (vf){} : load(into + r * into_row + c * LANES);
    for (long t = 0; t < count; t++) {
        vf columns[4];
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) {
            columns[c] = load(x + t * x_step + c * LANES);
            KEEP(columns[c]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            vf row = splat(y[r * y_row + t * y_step]);
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) sum[r][c] += columns[c] * row;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) store(into + r * into_row + c * LANES, sum[r][c]);
}

#define TILE(R, C) \
    static void tile_##R##_##C(TILE_PARAMETERS) { tile(R, C, x, x_step, y, y_row, y_step, count, into, into_row, fresh); }
TILE(1, 1) TILE(1, 2) TILE(1, 3) TILE(1, 4)
TILE(4, 1) TILE(4, 2) TILE(4, 3) TILE(4, 4)
TILE(8, 1) TILE(8, 2)

// `rows` rows of `columns` <= COLUMNS vectors.
static void product(long rows, int columns, TILE_PARAMETERS) {
    static void (*const tiles[3][4])(TILE_PARAMETERS) = {
        {tile_1_1, tile_1_2, tile_1_3, tile_1_4},
        {tile_4_1, tile_4_2, tile_4_3, tile_4_4},
        {tile_8_1, tile_8_2, tile_4_3, tile_4_4},
    };
    const int widest = columns == 1 || (columns == 2 && COLUMNS == 4) ? 8 : 4;
    for (long r = 0; r < rows;) {
        const int height = rows - r >= widest ? widest : rows - r >= 4 ? 4 : 1;
        tiles[height / 4][columns - 1](
            x, x_step, y + r * y_row, y_row, y_step, count, into + r * into_row, into_row, fresh);
        r += height;
    }
}

// Operands ------------------------------------------------------------------------------------------------------

// Any number of elements, `step` apart, as floats and back.
INLINE void floats_from_as(float *restrict into, const void *from, const int type, long at, const long step, long count) {
    for (long i = 0; i < count; i++) into[i] = element(from, type, at + i * step);
}

INLINE void floats_into_as(void *into, const float *restrict from, const int type, long at, const long step, long count) {
    for (long i = 0; i < count; i++) set_element(into, type, at + i * step, from[i]);
}

#define OF_TYPE(FUNCTION, STEP)                                               \
    if (type == F32) FUNCTION(into, from, F32, at, STEP, count);              \
    else if (type == BF16) FUNCTION(into, from, BF16, at, STEP, count);       \
    else FUNCTION(into, from, F16, at, STEP, count)

static void floats_from(float *restrict into, const void *from, int type, long at, long step, long count) {
    if (step == 1) { OF_TYPE(floats_from_as, 1); }
    else { OF_TYPE(floats_from_as, step); }
}

static void floats_into(void *into, const float *restrict from, int type, long at, long step, long count) {
    if (step == 1) { OF_TYPE(floats_into_as, 1); }
    else { OF_TYPE(floats_into_as, step); }
}

typedef struct {
    const float *start;
    long row;
} rows_t;

// Rows [first, first + count) of a head of keys or values as floats: in place, or as a copy with rows of `padded`
// >= size floats, zeros at their end.
static rows_t rows_of(
    const attention_t *a, const void *tensor, const long strides[4], long batch, long head, long first, long count,
    long size, long padded, float *copy)
{
    const long start = batch * strides[0] + head * strides[1] + first * strides[2];
    if (a->type == F32 && strides[3] == 1 && size == padded) return (rows_t){(const float *)tensor + start, strides[2]};
    for (long r = 0; r < count; r++) {
        floats_from(copy + r * padded, tensor, a->type, start + r * strides[2], strides[3], size);
        for (long d = size; d < padded; d++) copy[r * padded + d] = 0;
    }
    return (rows_t){copy, padded};
}

// What is added to the scores of query `row` with keys [first, first + count).
static void mask_of(const attention_t *a, float *into, long batch, long head, long row, long first, long count) {
    const long step = a->mask_strides[3];
    const long start = batch * a->mask_strides[0] + head * a->mask_strides[1] + row * a->mask_strides[2] + first * step;
    if (a->mask_type != BOOL) {
        floats_from(into, a->mask, a->mask_type, start, step, count);
        return;
    }
    const uint8_t *seen = (const uint8_t *)a->mask + start;
    for (long j = 0; j < count; j++) into[j] = seen[j * step] ? 0.0f : -INFINITY;
}

// Many queries --------------------------------------------------------------------------------------------------

// Where the queries' vectors and everything else of one block lie: all of it on the stack.
typedef struct {
    int columns;
    long keys, floats;
} block_t;

static long block_floats(const attention_t *a, int columns, long keys) {
    const long copied = a->type != F32 || a->key_strides[3] != 1 || a->value_strides[3] != 1;
    const long size = a->size > a->value_size ? a->size : a->value_size;
    const long queries = (a->size + a->value_size + keys) * columns * LANES;
    return queries + (copied ? keys * size : 0) + (a->mask_type >= 0 ? keys * LANES : 0);
}

// As many queries as fit beside each other, then as many keys.
static block_t block_of(const attention_t *a) {
    block_t block = {COLUMNS, BLOCK_KEYS, 0};
    while (block.columns > 1 && block_floats(a, block.columns, LANES * 2) > STACK_FLOATS) block.columns--;
    while (block.keys > LANES && block_floats(a, block.columns, block.keys) > STACK_FLOATS) block.keys /= 2;
    block.floats = block_floats(a, block.columns, block.keys);
    return block;
}

// Rows [first, first + LANES) of the queries, transposed and scaled; the last one again where there are no more.
static void take_queries(const attention_t *a, float *into, long width, long batch, long head, long first) {
    const long *strides = a->query_strides;
    const long start = batch * strides[0] + head * strides[1];
    for (long d = 0; d < a->size; d += LANES) {
        const long count = a->size - d < LANES ? a->size - d : LANES;
        float elements[LANES][LANES] = {};
        vf rows[LANES];
        for (int r = 0; r < LANES; r++) {
            const long row = first + r < a->rows ? first + r : a->rows - 1;
            floats_from(elements[r], a->query, a->type, start + row * strides[2] + d * strides[3], strides[3], count);
        }
        for (int r = 0; r < LANES; r++) rows[r] = load(elements[r]) * a->scale;
        transpose(rows);
        for (int r = 0; r < count; r++) store(into + (d + r) * width, rows[r]);
    }
}

// Results of LANES queries, divided by the sums of their weights.
static void give_results(
    const attention_t *a, const float *from, long width, vf sum, long batch, long head, long first)
{
    const long *strides = a->out_strides;
    const long start = batch * strides[0] + head * strides[1] + first * strides[2];
    const vf factor = choose(sum == 0.0f, splat(a->unseen), 1.0f / sum);
    for (long d = 0; d < a->value_size; d += LANES) {
        const long count = a->value_size - d < LANES ? a->value_size - d : LANES;
        float elements[LANES][LANES];
        vf rows[LANES];
        for (int r = 0; r < LANES; r++) rows[r] = r < count ? load(from + (d + r) * width) * factor : (vf){};
        transpose(rows);
        for (int r = 0; r < LANES; r++) store(elements[r], rows[r]);
        for (int r = 0; r < LANES && first + r < a->rows; r++)
            floats_into(a->out, elements[r], a->type, start + r * strides[2] + d * strides[3], strides[3], count);
    }
}

// Add the mask to the scores of LANES queries (from row `row`) with keys [first, first + count).
static void add_mask(
    const attention_t *a, float *scores, long width, float *copy, long batch, long head, long row, long first,
    long count)
{
    if (a->mask_strides[2] == 0) {
        mask_of(a, copy, batch, head, 0, first, count);
        for (long j = 0; j < count; j++) store(scores + j * width, load(scores + j * width) + copy[j]);
        return;
    }
    for (long j = 0; j < count; j += LANES) {
        const long some = count - j < LANES ? count - j : LANES;
        vf rows[LANES];
        for (int r = 0; r < LANES; r++)
            mask_of(a, copy + r * LANES, batch, head, row + r < a->rows ? row + r : a->rows - 1, first + j, some);
        for (int r = 0; r < LANES; r++) rows[r] = load(copy + r * LANES);
        transpose(rows);
        for (int r = 0; r < some; r++)
            store(scores + (j + r) * width, load(scores + (j + r) * width) + rows[r]);
    }
}

static void attend_block(
    const attention_t *a, const block_t *block, int columns, long batch, long head, long first)
{
    const float log2_e = 1.44269504f;
    const long width = columns * LANES;
    vf memory[(block->floats + LANES - 1) / LANES];
    float *queries = (float *)memory, *results = queries + a->size * width;
    float *scores = results + a->value_size * width, *copy = scores + block->keys * width;
    float *mask = (float *)memory + block->floats - block->keys * LANES;
    vf top[4], sum[4];
    for (int c = 0; c < columns; c++) {
        take_queries(a, queries + c * LANES, width, batch, head, first + c * LANES);
        top[c] = splat(-INFINITY);
        sum[c] = (vf){};
    }
    const long number = a->first_row + first;
    const long seen = a->causal && number + width < a->keys ? number + width : a->keys;
    for (long start = 0; start < seen; start += block->keys) {
        const long count = seen - start < block->keys ? seen - start : block->keys;
        // Vector c sees keys [0, until[c]) of the block.
        long until[4];
        for (int c = 0; c < columns; c++) {
            const long last = number + (c + 1) * LANES - start;
            until[c] = !a->causal || last > count ? count : last < 0 ? 0 : last;
        }
        const rows_t keys = rows_of(
            a, a->key, a->key_strides, batch, head / a->group, start, count, a->size, a->size, copy);
        for (long j = 0, c = 0; c < columns; c++) {
            if (until[c] <= j) continue;
            product(until[c] - j, columns - c, queries + c * LANES, width, keys.start + j * keys.row, keys.row, 1,
                a->size, scores + j * width + c * LANES, width, 1);
            j = until[c];
        }
        for (int c = 0; c < columns; c++) {
            float *own = scores + c * LANES;
            if (a->mask_type >= 0)
                add_mask(a, own, width, mask, batch, head, first + c * LANES, start, until[c]);
            const vi row = LANE_NUMBERS + (int)(number + c * LANES - start);
            for (long j = a->causal ? number + c * LANES - start : until[c]; j < until[c]; j++)
                if (j >= 0) store(own + j * width, choose(row >= (int)j, load(own + j * width), splat(-INFINITY)));
            vf highest = top[c];
            for (long j = 0; j < until[c]; j++)
                highest = larger(highest, load(own + j * width));
            const vf base = choose(highest == -INFINITY, (vf){}, highest);
            const vf shrink = exp2_of_negative((top[c] - base) * log2_e);
            vf total = sum[c] * shrink;
            for (long j = 0; j < until[c]; j++) {
                vf weight = exp2_of_negative((load(own + j * width) - base) * log2_e);
                store(own + j * width, weight);
                total += weight;
            }
            sum[c] = total;
            top[c] = highest;
            if (start > 0)
                for (long d = 0; d < a->value_size; d++) {
                    float *result = results + d * width + c * LANES;
                    store(result, load(result) * shrink);
                }
        }
        const rows_t values = rows_of(
            a, a->value, a->value_strides, batch, head / a->group, start, count, a->value_size, a->value_size, copy);
        for (long j = 0, c = 0; c < columns; c++) {
            if (until[c] <= j) continue;
            product(a->value_size, columns - c, scores + j * width + c * LANES, width, values.start + j * values.row, 1,
                values.row, until[c] - j, results + c * LANES, width, start + j == 0);
            j = until[c];
        }
    }
    for (int c = 0; c < columns; c++)
        give_results(a, results + c * LANES, width, sum[c], batch, head, first + c * LANES);
}

// Few queries ---------------------------------------------------------------------------------------------------

static void dots(const float *query, const float *keys, long row, long size, long count, float *into) {
    for (; count >= LANES; count -= LANES, keys += LANES * row, into += LANES) {
        vf sum[LANES] = {};
        for (long d = 0; d < size; d += LANES) {
            vf elements = load(query + d);
            KEEP(elements);
#pragma GCC unroll 16
            for (int r = 0; r < LANES; r++) sum[r] += elements * load(keys + r * row + d);
        }
        store(into, sums(sum));
    }
    for (; count > 0; count--, keys += row, into++) {
        vf sum = {};
        for (long d = 0; d < size; d += LANES) sum += load(query + d) * load(keys + d);
        *into = sum_of_lanes(sum);
    }
}

static long padded(long size) { return (size + LANES - 1) / LANES * LANES; }

// Queries [first, first + count) of those that share a head of keys and values: `rows` of each of `group` heads.
static void attend_rows(const attention_t *a, long batch, long shared_head, long first, int count) {
    const float log2_e = 1.44269504f;
    const long size = padded(a->size), value_size = padded(a->value_size);
    float queries[ROWS_AT_ONCE * size], results[ROWS_AT_ONCE * value_size];
    float scores[ROWS_AT_ONCE * BLOCK_KEYS], mask[BLOCK_KEYS];
    float top[ROWS_AT_ONCE], sum[ROWS_AT_ONCE];
    const int in_place = a->type == F32 && a->key_strides[3] == 1 && a->value_strides[3] == 1 && size == a->size &&
                         value_size == a->value_size;
    const long largest = size > value_size ? size : value_size;
    long block = BLOCK_KEYS;
    while (!in_place && block > LANES && (ROWS_AT_ONCE * 2 + block) * largest > STACK_FLOATS) block /= 2;
    vf copy[in_place ? 1 : block * largest / LANES];
    long seen = a->keys;
    if (a->causal && a->first_row + a->rows < seen) seen = a->first_row + a->rows;
    for (int r = 0; r < count; r++) {
        const long head = shared_head * a->group + (first + r) / a->rows, row = (first + r) % a->rows;
        const long *strides = a->query_strides;
        float *query = queries + r * size;
        floats_from(query, a->query, a->type, batch * strides[0] + head * strides[1] + row * strides[2], strides[3],
            a->size);
        for (long d = 0; d < a->size; d++) query[d] *= a->scale;
        for (long d = a->size; d < size; d++) query[d] = 0;
        for (long d = 0; d < value_size; d++) results[r * value_size + d] = 0;
        top[r] = -INFINITY;
        sum[r] = 0;
    }
    for (long start = 0; start < seen; start += block) {
        const long here = seen - start < block ? seen - start : block;
        const rows_t keys = rows_of(
            a, a->key, a->key_strides, batch, shared_head, start, here, a->size, size, (float *)copy);
        for (int r = 0; r < count; r++) {
            const long head = shared_head * a->group + (first + r) / a->rows, row = (first + r) % a->rows;
            float *own = scores + r * BLOCK_KEYS;
            dots(queries + r * size, keys.start, keys.row, size, here, own);
            if (a->mask_type >= 0) {
                mask_of(a, mask, batch, head, row, start, here);
                for (long j = 0; j < here; j++) own[j] += mask[j];
            }
            const long until = a->causal ? a->first_row + row + 1 - start : here;
            for (long j = until < 0 ? 0 : until; j < here; j++) own[j] = -INFINITY;
            for (long j = here; j < padded(here); j++) own[j] = -INFINITY;
            vf highest = splat(top[r]);
            for (long j = 0; j < here; j += LANES) highest = larger(highest, load(own + j));
            const float limit = largest_lane(highest), base = limit == -INFINITY ? 0 : limit;
            const float shrink = exp2_of_negative(splat(top[r] - base) * log2_e)[0];
            vf total = {};
            for (long j = 0; j < here; j += LANES) {
                vf weight = exp2_of_negative((load(own + j) - base) * log2_e);
                store(own + j, weight);
                total += weight;
            }
            sum[r] = sum[r] * shrink + sum_of_lanes(total);
            top[r] = limit;
            for (long d = 0; d < value_size; d += LANES)
                store(results + r * value_size + d, load(results + r * value_size + d) * shrink);
        }
        const rows_t values = rows_of(
            a, a->value, a->value_strides, batch, shared_head, start, here, a->value_size, value_size, (float *)copy);
        for (long d = 0; d < value_size; d += COLUMNS * LANES) {
            const long left = (value_size - d) / LANES;
            product(count, left < COLUMNS ? left : COLUMNS, values.start + d, values.row, scores, BLOCK_KEYS, 1, here,
                results + d, value_size, 0);
        }
    }
    for (int r = 0; r < count; r++) {
        const long head = shared_head * a->group + (first + r) / a->rows, row = (first + r) % a->rows;
        const long *strides = a->out_strides;
        float *result = results + r * value_size;
        const float factor = sum[r] == 0 ? a->unseen : 1 / sum[r];
        for (long d = 0; d < a->value_size; d++) result[d] *= factor;
        floats_into(a->out, result, a->type, batch * strides[0] + head * strides[1] + row * strides[2], strides[3],
            a->value_size);
    }
}

static void attend(const attention_t *a) {
    const long products = a->batches * a->heads * a->rows * a->keys * (a->size + a->value_size);
    if (a->rows <= LANES / 4) {
        const long shared_heads = a->heads / a->group, rows = a->group * a->rows;
        const long parts = (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
#pragma omp parallel for schedule(dynamic) if (products > SMALL_WORK)
        for (long task = 0; task < a->batches * shared_heads * parts; task++) {
            const long first = task % parts * ROWS_AT_ONCE;
            attend_rows(a, task / parts / shared_heads, task / parts % shared_heads, first,
                rows - first < ROWS_AT_ONCE ? rows - first : ROWS_AT_ONCE);
        }
        return;
    }
    const block_t block = block_of(a);
    const long vectors = (a->rows + LANES - 1) / LANES, blocks = (vectors + block.columns - 1) / block.columns;
#pragma omp parallel for schedule(dynamic) if (products > SMALL_WORK)
    for (long task = 0; task < a->batches * a->heads * blocks; task++) {
        const long batch = task / blocks / a->heads, head = task / blocks % a->heads;
        const long number = blocks - 1 - task % blocks;  // causal: the longest first
        const long first = vectors * number / blocks, last = vectors * (number + 1) / blocks;
        attend_block(a, &block, last - first, batch, head, first * LANES);
    }
}
