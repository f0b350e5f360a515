"""The kernels of fast weights over one chunk of steps, in the attention form, forward and backward.

Each program runs one sequence of one member of a population, from the first step to the last, with W and the states of
the chunk on the chip. The equations and the backward pass are those of `src/ops/cpu/csrc/fastweights.h`:

    z        = W h(k) + p_k
    q_0      = f(z)                                   or f(LN_0(z))
    a_s      = (z or q_s) + sum_{j <= k} c_j h(j) + λ^{k+1} A_0 q_s,     c_j = η λ^{k-j} h(j)·q_s
    q_{s+1}  = f(LN(a_s)),   s = 0 ... S-1            h(k + 1) = q_S

Backward, with x' the gradient of the loss with respect to x, from the last step to the first:

    q_S'     = y_k' + h(k+1)'
    a_s'     = J_LN^T (f'(LN(a_s)) q_{s+1}')
    z'      += a_s'   (or q_s' += a_s' if q_s replaces z)
    e_j      = η λ^{k-j} h(j)·a_s'
    q_s'    += sum_j e_j h(j) + λ^{k+1} A_0^T a_s'
    h(j)'   += c_j a_s' + e_j q_s
    z'      += f'(z) q_0'   (through LN_0),           p_k' = z',   h(k)' += W^T z'

Sums of outer products are left to matrix products after the kernel: W' = sum z' h(k)^T, A_0' = sum λ^{k+1} a_s' q_s^T.

Products are multiply-adds in the precision of the numbers, never rounded to that of tensor cores. There are no atomic
additions, so results do not depend on the order in which programs run.

Memory: P members, B sequences each, T steps, V symbols, H units; all arrays are contiguous.

    table [P, V, H] with ids [P, B, T], or [P, B, T, H] without     weight [P, H, H]     gains and biases [P, H]
    initial [P, B, H]     fast [P, B, H, H]     decay, fast_lr [P]     states [P, B, T, H]: h(0) ... h(T-1)
    queries [P, B, T, S+1, H]: q_0 ... q_S     normalized [P, B, T, N, H], scales [P, B, T, N] of the N layer norms
    of a step, those of LN first
"""

import triton
import triton.language as tl


@triton.jit
def _power(base, exponents, EXPONENT_BITS: tl.constexpr):
    """Powers base^n for integers n >= 0, by repeated squaring: the same in forward and backward, and 0^0 = 1."""
    result = tl.full(exponents.shape, 1.0, base.dtype)
    for bit in tl.static_range(EXPONENT_BITS):
        result = tl.where((exponents >> bit) & 1 == 1, result * base, result)
        base = base * base
    return result


@triton.jit
def _activate(a, NONLINEARITY: tl.constexpr):
    if NONLINEARITY == "relu":
        a = tl.where(a <= 0.0, 0.0, a)  # nan stays nan
    elif NONLINEARITY == "tanh":
        small = tl.exp(-2.0 * tl.abs(a))
        size = (1.0 - small) / (1.0 + small)
        a = tl.where(a < 0.0, -size, size)
    return a


@triton.jit
def _through(g, after, NONLINEARITY: tl.constexpr):
    """The gradient of the input of the nonlinearity, from that of its output and the output itself."""
    if NONLINEARITY == "relu":
        g = tl.where(after <= 0.0, 0.0, g)
    elif NONLINEARITY == "tanh":
        g = g * (1.0 - after * after)
    return g


@triton.jit
def _normalize(a, unit, H: tl.constexpr, EPSILON: tl.constexpr):
    centered = tl.where(unit, a - tl.sum(a, axis=0) / H, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centered * centered, axis=0) / H + EPSILON)
    return centered * scale, scale


@triton.jit
def _through_norm(g, gain, x, scale, unit, H: tl.constexpr):
    """The gradient of the input of a layer norm, from that of its output and the normalized input x."""
    g = g * gain
    centered = g - tl.sum(g, axis=0) / H - x * (tl.sum(g * x, axis=0) / H)
    return tl.where(unit, centered * scale, 0.0)


@triton.jit(do_not_specialize=["B", "T", "V"])
def forward_kernel(
    table, ids, transposed, gain, bias, first_gain, first_bias, initial, fast_transposed, decay, fast_lr,
    outputs, states, queries, normalized, scales,
    B, T, V,
    H: tl.constexpr, WIDTH: tl.constexpr, STEPS: tl.constexpr, EXPONENT_BITS: tl.constexpr,
    INNER_STEPS: tl.constexpr, SUSTAINED: tl.constexpr, NONLINEARITY: tl.constexpr, EPSILON: tl.constexpr,
    SAVE: tl.constexpr, RETURN_SEQUENCE: tl.constexpr,
):  # fmt: skip
    """One sequence; WIDTH and STEPS are H and T rounded up to powers of two.

    The matrices are passed transposed: to sum over rows, threads exchange a fraction of what they would for columns,
    and need half of the registers.
    """
    member = tl.program_id(1).to(tl.int64)
    sequence = member * B + tl.program_id(0)
    u = tl.arange(0, WIDTH)
    j = tl.arange(0, STEPS)
    unit = u < H
    square = u[:, None] * H + u[None, :]
    in_square = unit[:, None] & unit[None, :]
    num_norms: tl.constexpr = (INNER_STEPS if gain is not None else 0) + (1 if first_gain is not None else 0)

    matrix = tl.load(transposed + member * H * H + square, mask=in_square, other=0.0)
    if gain is not None:
        gain_u = tl.load(gain + member * H + u, mask=unit, other=0.0)
        bias_u = tl.load(bias + member * H + u, mask=unit, other=0.0)
    if first_gain is not None:
        first_gain_u = tl.load(first_gain + member * H + u, mask=unit, other=0.0)
        first_bias_u = tl.load(first_bias + member * H + u, mask=unit, other=0.0)
    lam = tl.load(decay + member)
    eta = tl.load(fast_lr + member)

    if initial is not None:
        h = tl.load(initial + sequence * H + u, mask=unit, other=0.0)
    else:
        h = tl.zeros((WIDTH,), dtype=transposed.dtype.element_ty)
    past = tl.zeros((STEPS, WIDTH), dtype=transposed.dtype.element_ty)
    left = lam
    for k in range(T):
        step = sequence * T + k
        past = tl.where((j == k)[:, None], h[None, :], past)
        if SAVE:
            tl.store(states + step * H + u, h, mask=unit)
        if ids is not None:
            symbol = tl.load(ids + step)
            within = tl.minimum(tl.maximum(symbol, 0), V - 1)
            z = tl.load(table + (member * V + within) * H + u, mask=unit, other=0.0)
            z = tl.where(unit & (symbol != within), float("nan"), z)
        else:
            z = tl.load(table + step * H + u, mask=unit, other=0.0)
        z += tl.sum(matrix * h[:, None], axis=0)
        age = tl.where(j <= k, eta * _power(lam, tl.maximum(k - j, 0), EXPONENT_BITS), 0.0)
        if first_gain is not None:
            x, scale = _normalize(z, unit, H, EPSILON)
            if SAVE:
                at = step * num_norms + num_norms - 1
                tl.store(normalized + at * H + u, x, mask=unit)
                tl.store(scales + at, scale)
            q = _activate(x * first_gain_u + first_bias_u, NONLINEARITY)
        else:
            q = _activate(z, NONLINEARITY)
        for s in range(INNER_STEPS):
            if SAVE:
                tl.store(queries + (step * (INNER_STEPS + 1) + s) * H + u, q, mask=unit)
            a = z if SUSTAINED else q
            c = tl.sum(past * q[None, :], axis=1) * age
            a += tl.sum(past * c[:, None], axis=0)
            if fast_transposed is not None:
                carried = tl.load(fast_transposed + sequence * H * H + square, mask=in_square, other=0.0)
                a += left * tl.sum(carried * q[:, None], axis=0)
            if gain is not None:
                x, scale = _normalize(a, unit, H, EPSILON)
                if SAVE:
                    at = step * num_norms + s
                    tl.store(normalized + at * H + u, x, mask=unit)
                    tl.store(scales + at, scale)
                a = x * gain_u + bias_u
            q = _activate(a, NONLINEARITY)
        if SAVE:
            tl.store(queries + (step * (INNER_STEPS + 1) + INNER_STEPS) * H + u, q, mask=unit)
        h = q
        left *= lam
        if RETURN_SEQUENCE:
            tl.store(outputs + step * H + u, h, mask=unit)
    if not RETURN_SEQUENCE:
        tl.store(outputs + sequence * H + u, h, mask=unit)


@triton.jit(do_not_specialize=["B", "T"])
def backward_kernel(
    weight, gain, first_gain, fast, decay, fast_lr, states, queries, normalized, scales, d_outputs,
    d_z, d_a, d_norms, d_initial,
    B, T,
    H: tl.constexpr, WIDTH: tl.constexpr, STEPS: tl.constexpr, EXPONENT_BITS: tl.constexpr,
    INNER_STEPS: tl.constexpr, SUSTAINED: tl.constexpr, NONLINEARITY: tl.constexpr, RETURN_SEQUENCE: tl.constexpr,
):  # fmt: skip
    """One sequence: the gradients of z [P, B, T, H] and, if it is given, of h(0).

    Also λ^{k+1} a_s' [P, B, T, S, H] if there is an A_0, and the sequence's shares of the gradients of gains and biases
    [P, B, 4, H].
    """
    member = tl.program_id(1).to(tl.int64)
    sequence = member * B + tl.program_id(0)
    u = tl.arange(0, WIDTH)
    j = tl.arange(0, STEPS)
    unit = u < H
    square = u[:, None] * H + u[None, :]
    in_square = unit[:, None] & unit[None, :]
    num_norms: tl.constexpr = (INNER_STEPS if gain is not None else 0) + (1 if first_gain is not None else 0)

    matrix = tl.load(weight + member * H * H + square, mask=in_square, other=0.0)
    if gain is not None:
        gain_u = tl.load(gain + member * H + u, mask=unit, other=0.0)
        d_gain = tl.zeros((WIDTH,), dtype=weight.dtype.element_ty)
        d_bias = tl.zeros((WIDTH,), dtype=weight.dtype.element_ty)
    if first_gain is not None:
        first_gain_u = tl.load(first_gain + member * H + u, mask=unit, other=0.0)
        d_first_gain = tl.zeros((WIDTH,), dtype=weight.dtype.element_ty)
        d_first_bias = tl.zeros((WIDTH,), dtype=weight.dtype.element_ty)
    lam = tl.load(decay + member)
    eta = tl.load(fast_lr + member)

    rows = (sequence * T + j)[:, None] * H + u[None, :]
    past = tl.load(states + rows, mask=(j < T)[:, None] & unit[None, :], other=0.0)
    d_past = tl.zeros((STEPS, WIDTH), dtype=weight.dtype.element_ty)
    g = tl.zeros((WIDTH,), dtype=weight.dtype.element_ty)  # h(k+1)'
    if not RETURN_SEQUENCE:
        g += tl.load(d_outputs + sequence * H + u, mask=unit, other=0.0)
    for back in range(T):
        k = T - 1 - back
        step = sequence * T + k
        if RETURN_SEQUENCE:
            g += tl.load(d_outputs + step * H + u, mask=unit, other=0.0)
        age = tl.where(j <= k, eta * _power(lam, tl.maximum(k - j, 0), EXPONENT_BITS), 0.0)
        if fast is not None:
            left = tl.sum(tl.where(j == k, _power(lam, j + 1, EXPONENT_BITS), 0.0), axis=0)
        after = tl.load(queries + (step * (INNER_STEPS + 1) + INNER_STEPS) * H + u, mask=unit, other=0.0)
        dz = tl.zeros((WIDTH,), dtype=weight.dtype.element_ty)
        for back_s in range(INNER_STEPS):
            s = INNER_STEPS - 1 - back_s
            q = tl.load(queries + (step * (INNER_STEPS + 1) + s) * H + u, mask=unit, other=0.0)
            g = _through(g, after, NONLINEARITY)
            if gain is not None:
                at = step * num_norms + s
                x = tl.load(normalized + at * H + u, mask=unit, other=0.0)
                d_gain += g * x
                d_bias += g
                g = _through_norm(g, gain_u, x, tl.load(scales + at), unit, H)
            c = tl.sum(past * q[None, :], axis=1) * age
            e = tl.sum(past * g[None, :], axis=1) * age
            d_past += c[:, None] * g[None, :] + e[:, None] * q[None, :]
            d_q = tl.sum(past * e[:, None], axis=0)
            if fast is not None:
                carried = tl.load(fast + sequence * H * H + square, mask=in_square, other=0.0)
                d_q += left * tl.sum(carried * g[:, None], axis=0)
                tl.store(d_a + (step * INNER_STEPS + s) * H + u, left * g, mask=unit)
            if SUSTAINED:
                dz += g
            else:
                d_q += g
            g = d_q
            after = q
        g = _through(g, after, NONLINEARITY)
        if first_gain is not None:
            at = step * num_norms + num_norms - 1
            x = tl.load(normalized + at * H + u, mask=unit, other=0.0)
            d_first_gain += g * x
            d_first_bias += g
            g = _through_norm(g, first_gain_u, x, tl.load(scales + at), unit, H)
        dz += g
        tl.store(d_z + step * H + u, dz, mask=unit)
        g = tl.sum(matrix * dz[:, None], axis=0)
        g += tl.sum(tl.where((j == k)[:, None], d_past, 0.0), axis=0)
    if d_initial is not None:
        tl.store(d_initial + sequence * H + u, g, mask=unit)
    shares = d_norms + sequence * 4 * H + u
    if gain is not None:
        tl.store(shares, d_gain, mask=unit)
        tl.store(shares + H, d_bias, mask=unit)
    if first_gain is not None:
        tl.store(shares + 2 * H, d_first_gain, mask=unit)
        tl.store(shares + 3 * H, d_first_bias, mask=unit)
