// Kernels of one program, each for one shape: a void function of pointers to the first elements of its tensors.
// Loops over independent work run on the threads of the OpenMP that the process has already.
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;  // the upper half of a float
typedef uint16_t f16;   // IEEE 754 half precision

static inline uint32_t bits_of(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
static inline float float_of(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }

// Conversions round to the nearest, ties to even. None has a branch, so that loops over them become vector code.

static inline float f32_from_bf16(bf16 x) { return float_of((uint32_t)x << 16); }

static inline bf16 bf16_from_f32(float x) {
    uint32_t u = bits_of(x);
    uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
    return x != x ? 0x7fc0 : rounded;
}

// M. Dukhan, FP16 (github.com/Maratyszcza/FP16): exponents are moved by a product, which handles infinities too.
static inline float f32_from_f16(f16 x) {
    uint32_t w = (uint32_t)x << 16, twice = w + w;
    float normal = float_of((twice >> 4) + (0xE0u << 23)) * 0x1p-112f;
    float denormal = float_of((twice >> 17) | (126u << 23)) - 0.5f;
    return float_of((w & 0x80000000u) | (twice < (1u << 27) ? bits_of(denormal) : bits_of(normal)));
}

static inline f16 f16_from_f32(float x) {
    uint32_t w = bits_of(x), twice = w + w, bias = twice & 0xFF000000u;
    bias = bias < 0x71000000u ? 0x71000000u : bias;
    uint32_t u = bits_of(float_of((bias >> 1) + 0x07800000u) + fabsf(x) * 0x1p112f * 0x1p-110f);
    uint32_t number = ((u >> 13) & 0x7C00) + (u & 0x0FFF);
    return (w >> 16 & 0x8000) | (twice > 0xFF000000u ? 0x7E00 : number);
}

static inline float f32_rounded_to_bf16(float x) { return f32_from_bf16(bf16_from_f32(x)); }
static inline float f32_rounded_to_f16(float x) { return f32_from_f16(f16_from_f32(x)); }

// Elementary functions, within a few units in the last place; NaN and infinities as in the C library.

// Bounds are taken of the bits: comparing floats would cost more, and its NaN would have to be looked after too.
static inline float f32_at_most(float x, float most) {
    int32_t u = (int32_t)bits_of(x), m = (int32_t)bits_of(most);
    return float_of((uint32_t)(u > m ? m : u));
}

// 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (S. L. Moshier, Cephes); denormal results are rounded twice.
static inline float f32_exp(float x) {
    uint32_t u = bits_of(f32_at_most(x, 89.0f)), least = bits_of(-104.0f);
    float bounded = float_of(u > least ? least : u);
    float n = rintf(bounded * 1.44269504f);
    float r = bounded - n * 0x1.62e400p-1f - n * 0x1.7f7d1cp-20f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    int32_t e = (int32_t)n, half = e >> 1;
    p = p * float_of((uint32_t)(half + 127) << 23) * float_of((uint32_t)(e - half + 127) << 23);
    return x == x ? p : x;
}

static inline float f32_expm1(float x) {
    float bounded = x > 80.0f ? 80.0f : x < -40.0f ? -40.0f : x;
    float n = rintf(bounded * 1.44269504f);
    float r = bounded - n * 0x1.62e400p-1f - n * 0x1.7f7d1cp-20f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r;
    float power = float_of((uint32_t)((int32_t)n + 127) << 23);
    return x > 80.0f ? f32_exp(x) : p * power + (power - 1.0f);
}

// N. Juffa's logf (0.86 units in the last place), without its branches.
static inline float f32_log(float x) {
    int tiny = x < 1.175494351e-38f;
    float a = tiny ? x * 8388608.0f : x;
    int32_t e = (int32_t)((bits_of(a) - 0x3f2aaaabu) & 0xff800000u);
    float m = float_of(bits_of(a) - (uint32_t)e) - 1.0f, s = m * m;
    float i = (float)e * 1.19209290e-7f + (tiny ? -23.0f : 0.0f);
    float r = -0.130310059f, t = 0.140869141f;
    r = r * s - 0.121483512f;
    t = t * s + 0.139814854f;
    r = r * s - 0.166846126f;
    t = t * s + 0.200120345f;
    r = r * s - 0.249996200f;
    r = t * m + r;
    r = r * m + 0.333331972f;
    r = r * m - 0.5f;
    r = r * s + m;
    r = i * 0.693147182f + r;
    r = x == 0.0f ? -INFINITY : r;
    r = x < 0.0f ? NAN : r;
    return x < INFINITY ? r : x + x;
}

static inline float f32_log1p(float x) {
    float u = 1.0f + x, r = f32_log(u);
    return u > 0.0f && u < INFINITY ? r + (x - (u - 1.0f)) / u : r;
}

static inline float f32_sigmoid(float x) { return 1.0f / (1.0f + f32_exp(-x)); }

// Rational minimax approximations of Eigen (G. Guennebaud et al.); within 4e-7 of the value.

static inline float f32_tanh(float x) {
    float a = f32_at_most(fabsf(x), 7.90531111f), s = a * a;
    float p = -2.76076847742355e-16f;
    p = p * s + 2.00018790482477e-13f;
    p = p * s - 8.60467152213735e-11f;
    p = p * s + 5.12229709037114e-08f;
    p = p * s + 1.48572235717979e-05f;
    p = p * s + 6.37261928875436e-04f;
    p = p * s + 4.89352455891786e-03f;
    float q = 1.19825839466702e-06f;
    q = q * s + 1.18534705686654e-04f;
    q = q * s + 2.26843463243900e-03f;
    q = q * s + 4.89352518554385e-03f;
    float r = a < 7.9f ? f32_at_most(p / q * a, 1.0f) : 1.0f;
    return x == x ? copysignf(r, x) : x;
}

static inline float f32_erf(float x) {
    float a = f32_at_most(fabsf(x), 4.0f), s = a * a;
    float p = -2.72614225801306e-10f;
    p = p * s + 2.77068142495902e-08f;
    p = p * s - 2.10102402082508e-06f;
    p = p * s - 5.69250639462346e-05f;
    p = p * s - 7.34990630326855e-04f;
    p = p * s - 2.95459980854025e-03f;
    p = p * s - 1.60960333262415e-02f;
    float q = -1.45660718464996e-05f;
    q = q * s - 2.13374055278905e-04f;
    q = q * s - 1.68282697438203e-03f;
    q = q * s - 7.37332916720468e-03f;
    q = q * s - 1.42647390514189e-02f;
    float r = a < 3.92f ? f32_at_most(p / q * a, 1.0f) : 1.0f;
    return x == x ? copysignf(r, x) : x;
}

static inline double f64_sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

// Division as torch rounds it, and its remainders.

static inline float f32_floordiv(float a, float b) {
    float mod = fmodf(a, b), quotient = (a - mod) / b;
    quotient -= mod != 0.0f && (b < 0.0f) != (mod < 0.0f) ? 1.0f : 0.0f;
    float floored = floorf(quotient);
    floored += quotient - floored > 0.5f ? 1.0f : 0.0f;
    return b == 0.0f ? a / b : quotient != 0.0f ? floored : copysignf(0.0f, a / b);
}

static inline double f64_floordiv(double a, double b) {
    double mod = fmod(a, b), quotient = (a - mod) / b;
    quotient -= mod != 0.0 && (b < 0.0) != (mod < 0.0) ? 1.0 : 0.0;
    double floored = floor(quotient);
    floored += quotient - floored > 0.5 ? 1.0 : 0.0;
    return b == 0.0 ? a / b : quotient != 0.0 ? floored : copysign(0.0, a / b);
}

static inline float f32_remainder(float a, float b) {
    float mod = fmodf(a, b);
    return mod != 0.0f && (b < 0.0f) != (mod < 0.0f) ? mod + b : mod;
}

static inline double f64_remainder(double a, double b) {
    double mod = fmod(a, b);
    return mod != 0.0 && (b < 0.0) != (mod < 0.0) ? mod + b : mod;
}

static inline int64_t i64_floordiv(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }
static inline int64_t i64_remainder(int64_t a, int64_t b) {
    return a % b + (a % b != 0 && (a < 0) != (b < 0) ? b : 0);
}
