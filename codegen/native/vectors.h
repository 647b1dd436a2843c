// Vectors of as many floats as the processor's registers hold, without headers of any one architecture.
#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
enum { LANES = 16, COLUMNS = 4 };
#define LANE_NUMBERS ((vi){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
#elif defined(__AVX__)
enum { LANES = 8, COLUMNS = 2 };
#define LANE_NUMBERS ((vi){0, 1, 2, 3, 4, 5, 6, 7})
#elif defined(__aarch64__)
enum { LANES = 4, COLUMNS = 4 };
#define LANE_NUMBERS ((vi){0, 1, 2, 3})
#else
enum { LANES = 4, COLUMNS = 2 };
#define LANE_NUMBERS ((vi){0, 1, 2, 3})
#endif
// COLUMNS: vectors side by side in the tile of a product, so that a tile of 4 rows stays in registers.

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef vf unaligned_vf __attribute__((aligned(4)));

INLINE vf load(const float *p) { return *(const unaligned_vf *)p; }
INLINE void store(float *p, vf x) { *(unaligned_vf *)p = x; }
INLINE vf splat(float x) { return x - (vf){}; }
INLINE vf choose(vi condition, vf yes, vf no) { return (vf)((condition & (vi)yes) | (~condition & (vi)no)); }

// A value that several products read stays in its register: loaded again by each, it would cost a load port.
#if defined(__x86_64__)
#define KEEP(x) __asm__("" : "+v"(x))
#elif defined(__aarch64__)
#define KEEP(x) __asm__("" : "+w"(x))
#else
#define KEEP(x) (void)0
#endif

// 2^x for x <= 0 (S. L. Moshier, Cephes exp2f): 0 below 2^-126, NaN for NaN. The constant that is added and
// subtracted rounds to an integer and leaves that, with the exponent's bias, in the lower bits.
INLINE vf exp2_of_negative(vf x) {
    const float rounder = 0x1.8p23f + 127.0f;
    x = choose(x < -127.0f, splat(-127.0f), x);
    vf shifted = x + rounder;
    vf f = x - (shifted - rounder);
    vf p = f * 1.535336188319500e-4f + 1.339887440266574e-3f;
    p = p * f + 9.618437357674640e-3f;
    p = p * f + 5.550332471162809e-2f;
    p = p * f + 2.402264791363012e-1f;
    p = p * f + 6.931472028550421e-1f;
    p = p * f + 1.0f;
    return p * (vf)((vi)shifted << 23);
}

// From vectors a and b, which differ in a number's bit `half`: the lanes without that bit, and those with it.
// The lanes' own bit says then which of the two they come from.
INLINE void part(vf *a, vf *b, const int half) {
    const vi lanes = LANE_NUMBERS, upper = (lanes & half) != 0;
    const vi without = (upper & (lanes - half + LANES)) | (~upper & lanes);
    const vi with = (upper & (lanes + LANES)) | (~upper & (lanes + half));
    vf low = __builtin_shuffle(*a, *b, without), high = __builtin_shuffle(*a, *b, with);
    *a = low;
    *b = high;
}

// Lanes [l] of rows [r] to lanes [r] of rows [l]: ever larger blocks change places over the diagonal.
INLINE void transpose(vf rows[LANES]) {
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++)
        if (!(r & 1)) part(&rows[r], &rows[r + 1], 1);
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++)
        if (!(r & 2)) part(&rows[r], &rows[r + 2], 2);
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++)
        if (LANES > 4 && !(r & 4)) part(&rows[r], &rows[r + 4], 4);
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++)
        if (LANES > 8 && !(r & 8)) part(&rows[r], &rows[r + 8], 8);
}

INLINE void fold(vf *rows, const int half) {
#pragma GCC unroll 8
    for (int r = 0; r < half; r++) {
        part(&rows[r], &rows[r + half], half);
        rows[r] += rows[r + half];
    }
}

// Lane r of the result is the sum of the lanes of rows[r]; the rows are used up.
INLINE vf sums(vf rows[LANES]) {
    if (LANES > 8) fold(rows, 8);
    if (LANES > 4) fold(rows, 4);
    fold(rows, 2);
    fold(rows, 1);
    return rows[0];
}

// The lanes whose numbers differ in bit `half` change places.
INLINE vf exchanged(vf x, const int half) { return __builtin_shuffle(x, LANE_NUMBERS ^ half); }

INLINE vf larger(vf a, vf b) { return choose(b > a, b, a); }

INLINE float largest_lane(vf x) {
    if (LANES > 8) x = larger(x, exchanged(x, 8));
    if (LANES > 4) x = larger(x, exchanged(x, 4));
    x = larger(x, exchanged(x, 2));
    return larger(x, exchanged(x, 1))[0];
}

INLINE float sum_of_lanes(vf x) {
    if (LANES > 8) x += exchanged(x, 8);
    if (LANES > 4) x += exchanged(x, 4);
    x += exchanged(x, 2);
    return (x + exchanged(x, 1))[0];
}

// Types of tensors in memory. Functions take them as constants, so that each compiles to the code of one type.
enum { F32, F16, BF16, BOOL };

typedef uint16_t vh __attribute__((vector_size(2 * LANES)));
typedef vh unaligned_vh __attribute__((aligned(2)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));

INLINE float element(const void *p, const int type, long at) {
    if (type == F32) return ((const float *)p)[at];
    return type == BF16 ? f32_from_bf16(((const bf16 *)p)[at]) : f32_from_f16(((const f16 *)p)[at]);
}

INLINE void set_element(void *p, const int type, long at, float x) {
    if (type == F32) ((float *)p)[at] = x;
    else if (type == BF16) ((bf16 *)p)[at] = bf16_from_f32(x);
    else ((f16 *)p)[at] = f16_from_f32(x);
}

// LANES elements that lie side by side; the conversions are those of the scalar functions.
INLINE vf load_as(const void *p, const int type, long at) {
    if (type == F32) return load((const float *)p + at);
    const vu w = __builtin_convertvector(*(const unaligned_vh *)((const uint16_t *)p + at), vu) << 16;
    if (type == BF16) return (vf)w;
    const vu twice = w + w;
    const vf normal = (vf)((twice >> 4) + (0xE0u << 23)) * 0x1p-112f;
    const vf denormal = (vf)((twice >> 17) | (126u << 23)) - 0.5f;
    return (vf)((w & 0x80000000u) | (vu)choose(twice < (1u << 27), denormal, normal));
}

INLINE void store_as(void *p, const int type, long at, vf x) {
    if (type == F32) {
        store((float *)p + at, x);
        return;
    }
    for (int i = 0; i < LANES; i++) set_element(p, type, at + i, x[i]);
}
