"""Functions of elements and rows that Triton's language lacks, for kernels that are generated from loops.

Elementary functions are within a few units in the last place; NaN and infinities as in the C library.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def f32_expm1(x):
    # 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (S. L. Moshier, Cephes).
    bounded = tl.where(x > 80.0, 80.0, tl.where(x < -40.0, -40.0, x))
    n = tl.floor(bounded * 1.44269504 + 0.5)
    r = bounded - n * 0.693359375 + n * 2.12194440e-4
    p = 1.9875691500e-4 * r + 1.3981999507e-3
    p = p * r + 8.3334519073e-3
    p = p * r + 4.1665795894e-2
    p = p * r + 1.6666665459e-1
    p = p * r + 5.0000001201e-1
    p = p * (r * r) + r
    power = tl.exp2(n)
    return tl.where(x != x, x, tl.where(x > 80.0, tl.exp(x), p * power + (power - 1.0)))


@triton.jit
def f32_log1p(x):
    u = 1.0 + x
    log = tl.log(u)
    return tl.where((u > 0.0) & (u < float("inf")), log + (x - (u - 1.0)) / u, log)


@triton.jit
def f32_tanh(x):
    # A rational minimax approximation of Eigen (G. Guennebaud et al.); within 4e-7 of the value.
    a = tl.minimum(tl.abs(x), 7.90531111)
    s = a * a
    p = -2.76076847742355e-16 * s + 2.00018790482477e-13
    p = p * s - 8.60467152213735e-11
    p = p * s + 5.12229709037114e-08
    p = p * s + 1.48572235717979e-05
    p = p * s + 6.37261928875436e-04
    p = p * s + 4.89352455891786e-03
    q = 1.19825839466702e-06 * s + 1.18534705686654e-04
    q = q * s + 2.26843463243900e-03
    q = q * s + 4.89352518554385e-03
    r = tl.minimum(p / q * a, 1.0)
    r = tl.where(a < 7.9, r, 1.0)
    return tl.where(x != x, x, tl.where(x < 0.0, -r, r))


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def truncated(x):
    return tl.where(x < 0.0, tl.ceil(x), tl.floor(x))


@triton.jit
def f32_round(x):
    # Where numbers have no fraction bits left, addition rounds to the nearest, ties to even.
    large = tl.where(x < 0.0, -8388608.0, 8388608.0)
    return tl.where(tl.abs(x) < 8388608.0, (x + large) - large, x)


@triton.jit
def f64_round(x):
    large = tl.where(x < 0.0, -4503599627370496.0, 4503599627370496.0).to(tl.float64)
    return tl.where(tl.abs(x) < 4503599627370496.0, (x + large) - large, x)


@triton.jit
def int_floordiv(a, b):
    rest = a % b
    return a // b - ((rest != 0) & ((rest < 0) != (b < 0))).to(a.dtype)


@triton.jit
def int_remainder(a, b):
    rest = a % b
    return tl.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)


@triton.jit
def float_remainder(a, b):
    rest = libdevice.fmod(a, b)
    return tl.where((rest != 0.0) & ((b < 0.0) != (rest < 0.0)), rest + b, rest)


@triton.jit
def float_floordiv(a, b):
    # As torch rounds it.
    rest = libdevice.fmod(a, b)
    quotient = (a - rest) / b
    quotient = tl.where((rest != 0.0) & ((b < 0.0) != (rest < 0.0)), quotient - 1.0, quotient)
    floored = tl.floor(quotient)
    floored = tl.where(quotient - floored > 0.5, floored + 1.0, floored)
    return tl.where(b == 0.0, a / b, tl.where(quotient != 0.0, floored, 0.0 * (a / b)))


@triton.jit
def f32_order(x):
    # Integers in the order of floats, NaN above all: warps take the largest integer in one instruction.
    bits = tl.where(x != x, float("nan"), x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def f32_of_order(key):
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def f64_order(x):
    bits = tl.where(x != x, float("nan"), x).to(tl.int64, bitcast=True)
    return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)


@triton.jit
def f64_of_order(key):
    return (key ^ ((key >> 63) & 0x7FFFFFFFFFFFFFFF)).to(tl.float64, bitcast=True)
