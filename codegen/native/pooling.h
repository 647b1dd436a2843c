// Maxima and means over windows of up to three dimensions.
//
// Where channels lie side by side they fill the vectors, and a window is read once for each of its results. Where
// columns do, the rows of a window become one line first, and windows along that line give the results: a line takes
// as many operations for each of its elements as a window has rows, not as it has elements.

enum { MAXIMUM, MEAN, LINE = 4096, SMALL_POOL = 1 << 15 };

// Window o of an axis: elements o * stride - padding + t * dilation for t < window. With stride 0, adaptive: elements
// [floor(o * size / out), ceil((o + 1) * size / out)).
typedef struct {
    long size, out, window, stride, padding, dilation, x_step, out_step;
} axis_t;

typedef struct {
    const void *x;
    void *out;
    long batches, channels, x_batch, x_channel, out_batch, out_channel;
    int count_padding;
    float divisor;  // of means; 0: the number of elements
    axis_t axes[3];
} pool_t;

// The elements of a window that exist, and how many a mean counts.
typedef struct {
    long first, count, step, counted;
} span_t;

static span_t span_of(const axis_t *a, long o, int count_padding) {
    if (a->stride == 0 && a->out == 1) return (span_t){0, a->size, 1, a->size};
    if (a->stride == 0) {
        const long first = o * a->size / a->out, count = ((o + 1) * a->size + a->out - 1) / a->out - first;
        return (span_t){first, count, 1, count};
    }
    const long start = o * a->stride - a->padding, step = a->dilation;
    const long skipped = start < 0 ? (-start + step - 1) / step : 0;
    const long inside = start < a->size ? (a->size - start + step - 1) / step : 0;
    const long last = inside < a->window ? inside : a->window, count = last > skipped ? last - skipped : 0;
    const long end = start + a->window < a->size + a->padding ? start + a->window : a->size + a->padding;
    return (span_t){start + skipped * step, count, step, count_padding ? end - start : count};
}

INLINE vf joined(const int kind, vf a, vf b) {
    return kind == MEAN ? a + b : choose((b > a) | (b != b), b, a);  // NaN wins
}

INLINE float joined1(const int kind, float a, float b) {
    return kind == MEAN ? a + b : (b > a) | (b != b) ? b : a;
}

INLINE float neutral(const int kind) { return kind == MEAN ? 0.0f : -INFINITY; }

// What the sum of a window is divided by: where it has no elements, their mean is 0.
INLINE float divisor_of(const pool_t *p, span_t depth, span_t height, span_t width) {
    if (depth.count * height.count * width.count == 0) return INFINITY;
    return p->divisor != 0 ? p->divisor : (float)(depth.counted * height.counted * width.counted);
}

INLINE float mean_of(const pool_t *p, float sum, span_t depth, span_t height, long o) {
    const axis_t *axis = &p->axes[2];
    const long start = o * axis->stride - axis->padding;
    span_t width = {start, axis->window, 1, axis->window};
    if (axis->stride == 0 || start < 0 || start + axis->window > axis->size) width = span_of(axis, o, p->count_padding);
    return sum / divisor_of(p, depth, height, width);
}

// Channels side by side -----------------------------------------------------------------------------------------

// One window, in vectors of channels that begin at each of `at`. Rows are summed before they are added up, so that
// rounding does not grow with the number of elements.
INLINE void window_of_channels(
    const pool_t *p, const int kind, const int type, const int vectors, const long at[4], span_t depth, span_t height,
    span_t width, long x, long out)
{
    vf all[4];
    for (int c = 0; c < vectors; c++) all[c] = splat(neutral(kind));
    for (long d = 0; d < depth.count; d++)
        for (long h = 0; h < height.count; h++) {
            long from = x + (depth.first + d * depth.step) * p->axes[0].x_step +
                        (height.first + h * height.step) * p->axes[1].x_step + width.first * p->axes[2].x_step;
            vf row[4];
#pragma GCC unroll 4
            for (int c = 0; c < vectors; c++) row[c] = splat(neutral(kind));
            for (long w = 0; w < width.count; w++, from += width.step * p->axes[2].x_step)
#pragma GCC unroll 4
                for (int c = 0; c < vectors; c++) row[c] = joined(kind, row[c], load_as(p->x, type, from + at[c]));
#pragma GCC unroll 4
            for (int c = 0; c < vectors; c++) all[c] = joined(kind, all[c], row[c]);
        }
    const float divisor = kind == MEAN ? divisor_of(p, depth, height, width) : 1;
    for (int c = 0; c < vectors; c++) store_as(p->out, type, out + at[c], kind == MEAN ? all[c] / divisor : all[c]);
}

INLINE void pool_channels(const pool_t *p, const int kind, const int type) {
    const axis_t *axes = p->axes;
    const long groups = (p->channels + 4 * LANES - 1) / (4 * LANES);
    const long tasks = p->batches * axes[0].out * axes[1].out * groups;
#pragma omp parallel for if (tasks * axes[2].out * 4 * LANES > SMALL_POOL)
    for (long task = 0; task < tasks; task++) {
        const long group = task % groups, row = task / groups, o1 = row % axes[1].out;
        const long o0 = row / axes[1].out % axes[0].out, batch = row / axes[1].out / axes[0].out;
        const span_t depth = span_of(&axes[0], o0, p->count_padding), height = span_of(&axes[1], o1, p->count_padding);
        // The last vector begins where it still fits: some channels are computed twice.
        long at[4];
        const long left = (p->channels - group * 4 * LANES + LANES - 1) / LANES;
        const int vectors = left < 4 ? left : 4;
        for (int c = 0; c < vectors; c++) {
            const long channel = (group * 4 + c) * LANES;
            at[c] = channel < p->channels - LANES ? channel : p->channels - LANES;
        }
        for (long o2 = 0; o2 < axes[2].out; o2++) {
            const span_t width = span_of(&axes[2], o2, p->count_padding);
            const long x = batch * p->x_batch;
            const long out =
                batch * p->out_batch + o0 * axes[0].out_step + o1 * axes[1].out_step + o2 * axes[2].out_step;
            if (vectors == 4) window_of_channels(p, kind, type, 4, at, depth, height, width, x, out);
            else
                for (int c = 0; c < vectors; c++)
                    window_of_channels(p, kind, type, 1, at + c, depth, height, width, x, out);
        }
    }
}

// Any other layout ----------------------------------------------------------------------------------------------

// Join `count` elements of a row to a line.
INLINE void add_row(
    float *restrict line, const pool_t *p, const int kind, const int type, long at, const long step, long count)
{
    for (long i = 0; i < count; i++) line[i] = joined1(kind, line[i], element(p->x, type, at + i * step));
}

// results[o] = window o of a line that begins with window 0.
INLINE void windows_of_line(
    float *restrict results, const float *restrict line, const int kind, const long stride, long count, long window,
    long dilation)
{
    for (long o = 0; o < count; o++) results[o] = line[o * stride];
    for (long t = 1; t < window; t++)
        for (long o = 0; o < count; o++) results[o] = joined1(kind, results[o], line[o * stride + t * dilation]);
}

// A window too long for a line; sums of as many lanes as a vector has.
INLINE float long_window(const pool_t *p, const int kind, const int type, long x, span_t depth, span_t height, span_t width) {
    float lanes[LANES], all = neutral(kind);
    for (int i = 0; i < LANES; i++) lanes[i] = neutral(kind);
    for (long d = 0; d < depth.count; d++)
        for (long h = 0; h < height.count; h++) {
            const long step = width.step * p->axes[2].x_step;
            const long from = x + (depth.first + d * depth.step) * p->axes[0].x_step +
                              (height.first + h * height.step) * p->axes[1].x_step + width.first * p->axes[2].x_step;
            for (long w = 0; w < width.count; w += LANES)
                for (int i = 0; i < LANES && w + i < width.count; i++)
                    lanes[i] = joined1(kind, lanes[i], element(p->x, type, from + (w + i) * step));
        }
    for (int i = 0; i < LANES; i++) all = joined1(kind, all, lanes[i]);
    return all;
}

// All of a line's elements, joined.
INLINE float joined_line(const int kind, const float *line, long count) {
    vf lanes = splat(neutral(kind));
    float all = neutral(kind);
    long i = 0;
    for (; i + LANES <= count; i += LANES) lanes = joined(kind, lanes, load(line + i));
    for (; i < count; i++) all = joined1(kind, all, line[i]);
    if (count < LANES) return all;
    if (LANES > 8) lanes = joined(kind, lanes, exchanged(lanes, 8));
    if (LANES > 4) lanes = joined(kind, lanes, exchanged(lanes, 4));
    lanes = joined(kind, lanes, exchanged(lanes, 2));
    lanes = joined(kind, lanes, exchanged(lanes, 1));
    return joined1(kind, all, lanes[0]);
}

// Results [o, o + count) of a row of results, by way of a line of the elements [low, high) that their windows span.
INLINE void pool_line(
    const pool_t *p, const int kind, const int type, long x, long out, span_t depth, span_t height, long o, long count,
    long low, long high)
{
    const axis_t *axis = &p->axes[2];
    float copy[LINE], results[LINE];
    const float *line = copy;
    const long first = low > 0 ? low : 0, last = high < axis->size ? high : axis->size;
    x += depth.first * p->axes[0].x_step + height.first * p->axes[1].x_step + first * axis->x_step;
    if (type == F32 && axis->x_step == 1 && depth.count * height.count == 1 && first == low && last == high)
        line = (const float *)p->x + x;
    else {
        for (long i = 0; i < high - low; i++) copy[i] = neutral(kind);
        for (long d = 0; d < depth.count; d++)
            for (long h = 0; h < height.count; h++) {
                const long at = x + d * depth.step * p->axes[0].x_step + h * height.step * p->axes[1].x_step;
                if (axis->x_step == 1) add_row(copy + first - low, p, kind, type, at, 1, last - first);
                else add_row(copy + first - low, p, kind, type, at, axis->x_step, last - first);
            }
    }
    if (axis->stride == 0)
        for (long i = 0; i < count; i++) {
            const span_t width = span_of(axis, o + i, 0);
            results[i] = joined_line(kind, line + width.first - low, width.count);
        }
    else if (count < LANES && axis->dilation == 1)
        for (long i = 0; i < count; i++) results[i] = joined_line(kind, line + i * axis->stride, axis->window);
    else if (axis->stride == 1) windows_of_line(results, line, kind, 1, count, axis->window, axis->dilation);
    else if (axis->stride == 2) windows_of_line(results, line, kind, 2, count, axis->window, axis->dilation);
    else windows_of_line(results, line, kind, axis->stride, count, axis->window, axis->dilation);
    if (kind == MEAN)
        for (long i = 0; i < count; i++) results[i] = mean_of(p, results[i], depth, height, o + i);
    for (long i = 0; i < count; i++) set_element(p->out, type, out + i * axis->out_step, results[i]);
}

INLINE void pool_rows(const pool_t *p, const int kind, const int type) {
    const axis_t *axes = p->axes, *axis = &axes[2];
    const long tasks = p->batches * p->channels * axes[0].out * axes[1].out;
    const long reach = (axis->window - 1) * axis->dilation + 1;
#pragma omp parallel for if (tasks * axis->size > SMALL_POOL)
    for (long task = 0; task < tasks; task++) {
        const long o1 = task % axes[1].out, o0 = task / axes[1].out % axes[0].out;
        const long plane = task / axes[1].out / axes[0].out, channel = plane % p->channels, batch = plane / p->channels;
        const span_t depth = span_of(&axes[0], o0, p->count_padding), height = span_of(&axes[1], o1, p->count_padding);
        const long x = batch * p->x_batch + channel * p->x_channel;
        const long out = batch * p->out_batch + channel * p->out_channel + o0 * axes[0].out_step + o1 * axes[1].out_step;
        for (long o = 0, next; o < axis->out; o = next) {
            // As many windows as a line holds, elements [low, high).
            long low = o * axis->stride - axis->padding, high = low;
            if (axis->stride == 0) low = high = span_of(axis, o, 0).first;
            for (next = o; next < axis->out; next++) {
                long end = next * axis->stride - axis->padding + reach;
                if (axis->stride == 0) {
                    const span_t width = span_of(axis, next, 0);
                    end = width.first + width.count;
                }
                if (end - low > LINE) break;
                high = end;
            }
            const long into = out + o * axis->out_step;
            if (next > o) {
                pool_line(p, kind, type, x, into, depth, height, o, next - o, low, high);
                continue;
            }
            float result = long_window(p, kind, type, x, depth, height, span_of(axis, o, 0));
            if (kind == MEAN) result = mean_of(p, result, depth, height, o);
            set_element(p->out, type, into, result);
            next = o + 1;
        }
    }
}

INLINE void pool(const pool_t *p, const int kind, const int type) {
    if (p->x_channel == 1 && p->out_channel == 1 && p->channels >= LANES) pool_channels(p, kind, type);
    else pool_rows(p, kind, type);
}

// The function of one kind and type of pooling.
#define POOL(KIND, TYPE) \
    static __attribute__((noinline)) void pool_##KIND##_##TYPE(const pool_t *p) { pool(p, KIND, TYPE); }
