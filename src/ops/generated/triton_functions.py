"""Elementwise operations of generated Triton kernels that Triton lacks, or whose treatment of nan differs from torch's.

They are as accurate as those in the CPU kernels, also near zero.
"""

import triton
import triton.language as tl


@triton.jit
def larger(a, b):
    """The larger number; nan if either is nan."""
    return tl.where(a != a, a, tl.where(a > b, a, b))


@triton.jit
def smaller(a, b):
    """The smaller number; nan if either is nan."""
    return tl.where(a != a, a, tl.where(a < b, a, b))


@triton.jit
def rectified(x):
    """The number if it is positive, else 0; nan stays nan."""
    return tl.where(x <= 0.0, 0.0, x)


@triton.jit
def sign(x):
    """1, 0 or -1."""
    return tl.where(x > 0.0, 1.0, 0.0).to(x.dtype) - tl.where(x < 0.0, 1.0, 0.0).to(x.dtype)


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def exp_minus_1(x):
    """e^x - 1, by Kahan's correction: (u - 1) x / log u with u = e^x rounded."""
    power = tl.exp(x)
    other = tl.where((power == 1.0) | (power == 0.0) | (power - 1.0 == power), 2.0, power)
    corrected = (power - 1.0) * x / tl.log(other)
    return tl.where(power == 1.0, x, tl.where(power == other, corrected, power - 1.0))


@triton.jit
def log_of_1_plus(x):
    """log(1 + x), by the same correction."""
    whole = 1.0 + x
    other = tl.where((whole == 1.0) | (whole - 1.0 == whole), 2.0, whole)
    corrected = tl.log(other) * x / (other - 1.0)
    return tl.where(whole == 1.0, x, tl.where(whole == other, corrected, tl.log(whole)))


@triton.jit
def hyperbolic_tangent(x):
    """The hyperbolic tangent: for x >= 0, e / (e + 2) with e = exp(2x) - 1."""
    e = exp_minus_1(2.0 * tl.minimum(tl.abs(x), 20.0))
    size = e / (e + 2.0)
    return tl.where(x != x, x, tl.where(x < 0.0, -size, size))


@triton.jit
def power(x, exponent):
    """The power x^exponent, for an exponent other than 0."""
    size = tl.exp(exponent * tl.log(tl.abs(x)))
    whole = tl.floor(exponent) == exponent
    odd = tl.floor(exponent / 2.0) * 2.0 != exponent
    of_negative = tl.where(whole, tl.where(odd, -size, size), float("nan"))
    return tl.where(x < 0.0, of_negative, size)


@triton.jit
def truncated(x):
    """The number, rounded towards 0."""
    return tl.where(x < 0.0, tl.ceil(x), tl.floor(x))


@triton.jit
def nearest(x):
    """The nearest integer; ties go to the even one."""
    below = tl.floor(x)
    rest = x - below
    odd = tl.floor(below / 2.0) * 2.0 != below
    return tl.where((rest > 0.5) | ((rest == 0.5) & odd), below + 1.0, below)


@triton.jit
def quotient(a, b):
    """A division rounded as IEEE 754 requires, which / is not in single precision."""
    return tl.div_rn(a, b) if a.dtype == tl.float32 else a / b


@triton.jit
def remainder(a, b):
    """The remainder of a division, with the sign of the divisor."""
    rest = a % b
    return tl.where((rest != 0.0) & ((rest < 0.0) != (b < 0.0)), rest + b, rest)
