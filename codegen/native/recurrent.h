// One direction of a recurrent layer, step by step. The recurrent weight is stored in panels: for units that lie
// together, all their gates, and for each element of the hidden state first the first gate's column of them, then
// the second's, .. So a panel is read from its first byte to its last, a row of it is a few vectors, and their sums
// stay in registers until the gates are known, from which the units' new states follow at once.

enum { LSTM, GRU, TANH, RELU };
enum { COLUMNS_AT_MOST = 64, AT_ONCE = LANES == 16 ? 4 : LANES == 8 ? 2 : 1 };

typedef struct {
    const float *gates, *weight, *bias, *hidden, *cell;  // the last three may be null: zeros
    float *out, *last_hidden, *last_cell;
    int kind, reverse;
    long time, batch, size, width;  // units, elements of the hidden state
    long units, columns;            // of a panel
    long gates_strides[3], bias_strides[1], hidden_strides[2], cell_strides[2];
    long out_strides[3], last_hidden_strides[2], last_cell_strides[2];
} layer_t;

// What `vectors` columns of a panel make of `count` states, `between` apart, whose elements are `apart`. Where few
// sums are taken, even and odd rows are summed apart, because an addition takes as long as several loads.
INLINE void sums_of_columns(float *restrict into, const float *restrict panel, const float *h, const long between,
                            const long apart, const long width, const long columns, const int vectors, const int count) {
    const int chains = vectors * count < 8 ? 2 : 1;
    vf sums[2][AT_ONCE][4];
#pragma GCC unroll 2
    for (int c = 0; c < chains; c++)
#pragma GCC unroll 4
        for (int b = 0; b < count; b++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sums[c][b][v] = (vf){};
    long k = 0;
    for (; k + chains <= width; k += chains) {
#pragma GCC unroll 2
        for (int c = 0; c < chains; c++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) {
                const vf w = load(panel + (k + c) * columns + v * LANES);
#pragma GCC unroll 4
                for (int b = 0; b < count; b++) sums[c][b][v] += w * h[b * between + (k + c) * apart];
            }
    }
    if (k < width)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const vf w = load(panel + k * columns + v * LANES);
#pragma GCC unroll 4
            for (int b = 0; b < count; b++) sums[0][b][v] += w * h[b * between + k * apart];
        }
#pragma GCC unroll 4
    for (int b = 0; b < count; b++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            store(into + b * COLUMNS_AT_MOST + v * LANES, chains == 2 ? sums[0][b][v] + sums[1][b][v] : sums[0][b][v]);
}

// The same for all columns of a panel, four vectors at once; zeros where there is no state.
INLINE void sums_of_panel(float *restrict into, const float *restrict panel, const float *h, const long between,
                          const long apart, const long width, const long columns, const int count) {
    if (!h) {
        memset(into, 0, sizeof(float) * COLUMNS_AT_MOST * count);
        return;
    }
#pragma GCC unroll 4
    for (int first = 0; first < columns; first += 4 * LANES) {
        const int left = (columns - first) / LANES;
        if (left >= 4) sums_of_columns(into + first, panel + first, h, between, apart, width, columns, 4, count);
        else if (left == 3) sums_of_columns(into + first, panel + first, h, between, apart, width, columns, 3, count);
        else if (left == 2) sums_of_columns(into + first, panel + first, h, between, apart, width, columns, 2, count);
        else sums_of_columns(into + first, panel + first, h, between, apart, width, columns, 1, count);
    }
}

// New states of the `count` units from `first` on, in row `row` of the batch, at time `t`. `s` holds the sums of
// their panel and `h` the row's state before, or null.
INLINE void new_states(const layer_t *l, const float *s, const float *h, const long apart, const long t, const long row,
                       const long first, const long count) {
    const long step = l->gates_strides[2], gate = l->size * step, units = l->units;
    const float *given = l->gates + t * l->gates_strides[0] + row * l->gates_strides[1] + first * step;
    float *out = l->out + t * l->out_strides[0] + row * l->out_strides[1] + first * l->out_strides[2];
    float *cell = l->last_cell + row * l->last_cell_strides[0] + first * l->last_cell_strides[1];
    const float *bias = l->bias + first * l->bias_strides[0], *before = h + first * apart;
    if (l->kind == LSTM) {
#pragma omp simd
        for (long j = 0; j < count; j++) {
            const float *g = given + j * step;
            const float in = f32_sigmoid(s[j] + g[0]), forget = f32_sigmoid(s[units + j] + g[gate]);
            const float candidate = f32_tanh(s[2 * units + j] + g[2 * gate]);
            const float shown = f32_sigmoid(s[3 * units + j] + g[3 * gate]);
            const float c = forget * cell[j * l->last_cell_strides[1]] + in * candidate;
            cell[j * l->last_cell_strides[1]] = c;
            out[j * l->out_strides[2]] = shown * f32_tanh(c);
        }
    } else if (l->kind == GRU) {
#pragma omp simd
        for (long j = 0; j < count; j++) {
            const float *g = given + j * step;
            const float reset = f32_sigmoid(s[j] + g[0]), update = f32_sigmoid(s[units + j] + g[gate]);
            const float recurrent = s[2 * units + j] + (l->bias ? bias[j * l->bias_strides[0]] : 0.0f);
            const float fresh = f32_tanh(reset * recurrent + g[2 * gate]);
            out[j * l->out_strides[2]] = fresh + update * ((h ? before[j * apart] : 0.0f) - fresh);
        }
    } else {
#pragma omp simd
        for (long j = 0; j < count; j++) {
            const float x = s[j] + given[j * step];
            out[j * l->out_strides[2]] = l->kind == TANH ? f32_tanh(x) : x < 0.0f ? 0.0f : x;
        }
    }
}

// Step `n` of the units of panel `p`, for the whole batch.
INLINE void step_of_panel(const layer_t *l, const long n, const long p) {
    const long t = l->reverse ? l->time - 1 - n : n;
    const float *h = n ? l->out + (l->reverse ? t + 1 : t - 1) * l->out_strides[0] : l->hidden;
    const long between = n ? l->out_strides[1] : l->hidden_strides[0];
    const long apart = n ? l->out_strides[2] : l->hidden_strides[1];
    const float *panel = l->weight + p * l->width * l->columns;
    const long first = p * l->units;
    float sums[AT_ONCE * COLUMNS_AT_MOST];
    for (long b = 0, rows; b < l->batch; b += rows) {
        const float *from = h ? h + b * between : 0;
        rows = b + AT_ONCE <= l->batch ? AT_ONCE : 1;
        if (rows == AT_ONCE) sums_of_panel(sums, panel, from, between, apart, l->width, l->columns, AT_ONCE);
        else sums_of_panel(sums, panel, from, between, apart, l->width, l->columns, 1);
        for (long row = b; row < b + rows; row++) {
            const float *s = sums + (row - b) * COLUMNS_AT_MOST, *own = h ? h + row * between : 0;
            if (first + l->units <= l->size) new_states(l, s, own, apart, t, row, first, l->units);
            else new_states(l, s, own, apart, t, row, first, l->size - first);
        }
    }
}

// The state of the cells is kept where it is wanted in the end.
INLINE void first_cells(const layer_t *l) {
    for (long b = 0; b < l->batch; b++)
        for (long j = 0; j < l->size; j++)
            l->last_cell[b * l->last_cell_strides[0] + j * l->last_cell_strides[1]] =
                l->cell ? l->cell[b * l->cell_strides[0] + j * l->cell_strides[1]] : 0.0f;
}

INLINE void last_states(const layer_t *l) {
    const float *h = l->out + (l->reverse ? 0 : l->time - 1) * l->out_strides[0];
    for (long b = 0; b < l->batch; b++)
        for (long j = 0; j < l->size; j++)
            l->last_hidden[b * l->last_hidden_strides[0] + j * l->last_hidden_strides[1]] =
                h[b * l->out_strides[1] + j * l->out_strides[2]];
}
