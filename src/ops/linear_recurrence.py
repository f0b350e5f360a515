"""The recurrence of linear attention and its descendants: a matrix that decays, is erased and is written to.

Shapes: B sequences, T time steps, n writes per step, N = T n writes, H heads, K key features, V value features, C
steps per chunk, R rows that read. G is 1 (one decay for all key features) or K.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from src.ops.precision import at_least_single, without_autocast


class Terms(NamedTuple):
    r"""The inputs of the recurrence at every step. Per head, with w = exp(log_decay),

        S_i = Diag(w_i) S_{i-1} + a_i (b_iᵀ S_{i-1}) + k_i v_iᵀ,    i = 1 ... N;    o_t = S_{n t}ᵀ q_t,    t = 1 ... T

    where a step may write n times before S is read. Without `erase`, nothing is erased. With `erase` but no `removal`,
    a = -k, which is the delta rule: S_i = Diag(w_i) S_{i-1} + k_i (v_i - S_{i-1}ᵀ b_i)ᵀ.
    """

    query: Tensor
    """q [B, T, H, K]."""
    key: Tensor
    """k [B, N, H, K]."""
    value: Tensor
    """v [B, N, H, V]."""
    log_decay: Tensor | None = None
    """log w [B, N, H, G], finite and at most 0; None for w = 1."""
    erase: Tensor | None = None
    """b [B, N, H, K], with which S is read before it decays; what is read is erased."""
    removal: Tensor | None = None
    """a [B, N, H, K], the direction in which it is erased; None for -k."""

    @property
    def num_writes(self) -> int:
        """n, the writes per step."""
        return self.key.shape[1] // self.query.shape[1]

    @property
    def plain(self) -> "Terms":
        """The terms themselves."""
        return self


class DeltaTerms(NamedTuple):
    r"""The delta rule with keys and queries that are first scaled to unit length. With x̂ = x / √(‖x‖² + 1e-6),

        S̄_i = Diag(w_i) S_{i-1},    S_i = S̄_i + β_i k̂_i (v_i - S̄_iᵀ k̂_i)ᵀ,    o_t = scale · S_{n t}ᵀ q̂_t

    so that, in `Terms`, k = β k̂, b = w ⊙ k̂ and q = scale · q̂. The kernel does the scaling itself, which saves many
    passes over all keys and queries.
    """

    query: Tensor
    """[B, T, H, K], of any length."""
    key: Tensor
    """[B, N, H, K], of any length."""
    value: Tensor
    """[B, N, H, V]."""
    strength: Tensor
    """β [B, N, H, 1]."""
    log_decay: Tensor | None = None
    """log w [B, N, H, G], as in `Terms`."""
    scale: float = 1.0

    @property
    def num_writes(self) -> int:
        """n, the writes per step."""
        return self.key.shape[1] // self.query.shape[1]

    @property
    def plain(self) -> Terms:
        """The equivalent `Terms`."""
        key, query = unit_length(self.key), unit_length(self.query)
        erase = key if self.log_decay is None else self.log_decay.exp() * key
        return Terms(self.scale * query, self.strength * key, self.value, self.log_decay, erase)


EPSILON = 1e-6


def unit_length(x_K: Tensor) -> Tensor:
    """x / √(‖x‖² + ε), ε = 1e-6: 0 stays 0, and gradients grow at most 1000-fold."""
    return x_K * torch.rsqrt(x_K.square().sum(-1, keepdim=True) + EPSILON)


Recurrence = Callable[..., tuple[Tensor, Tensor]]
"""(terms, S_0 [B, H, K, V], resets [B, T] or None, start [B, H, K, V] or None, read_first) -> (o [B, T, H, V], S_N).

Before a step with a reset, S is set back to `start`. With `read_first`, a step reads before it writes,
o_t = S_{n (t - 1)}ᵀ q_t."""


def in_full_precision(
    recurrence: Recurrence,
    terms: Terms | DeltaTerms,
    S_BHKV: Tensor,
    resets_BT: Tensor | None,
    start_BHKV: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Compute a recurrence in the precision of its state, but at least float32, even under autocast.

    Over many steps, bfloat16 would lose what is written: it has no digits for small changes to large numbers.
    """
    dtype = at_least_single(S_BHKV.dtype)
    terms = type(terms)(*(term.to(dtype) if isinstance(term, Tensor) else term for term in terms))  # type: ignore
    with without_autocast(S_BHKV):
        start_BHKV = None if start_BHKV is None else start_BHKV.to(dtype)
        o_BTHV, end_BHKV = recurrence(terms, S_BHKV.to(dtype), resets_BT, start_BHKV)
    return o_BTHV.to(S_BHKV.dtype), end_BHKV.to(S_BHKV.dtype)


def scan(
    terms: Terms | DeltaTerms, S_BHKV: Tensor, resets_BT: Tensor | None = None, start_BHKV: Tensor | None = None, *,
    read_first: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The definition, one write at a time; see `Recurrence`."""
    terms = terms.plain
    n = terms.num_writes
    outputs = []
    for t, q_BHK in enumerate(terms.query.unbind(1)):
        if resets_BT is not None:
            assert start_BHKV is not None
            S_BHKV = torch.where(resets_BT[:, t, None, None, None], start_BHKV, S_BHKV)
        before_BHKV = S_BHKV
        for i in range(t * n, (t + 1) * n):
            k_BHK, v_BHV = terms.key[:, i], terms.value[:, i]
            read_BHV = None if terms.erase is None else _read(S_BHKV, terms.erase[:, i])
            if terms.log_decay is not None:
                S_BHKV = terms.log_decay[:, i].exp()[..., None] * S_BHKV
            if read_BHV is not None:
                a_BHK = -k_BHK if terms.removal is None else terms.removal[:, i]
                S_BHKV = S_BHKV + a_BHK[..., None] * read_BHV[..., None, :]
            S_BHKV = S_BHKV + k_BHK[..., None] * v_BHV[..., None, :]
        outputs.append(_read(before_BHKV if read_first else S_BHKV, q_BHK))
    return torch.stack(outputs, dim=1), S_BHKV


def _read(S_BHKV: Tensor, q_BHK: Tensor) -> Tensor:
    return (S_BHKV * q_BHK[..., None]).sum(-2)


def chunked(
    terms: Terms | DeltaTerms, S_BHKV: Tensor, resets_BT: Tensor | None = None, start_BHKV: Tensor | None = None, *,
    chunk_size: int = 32, read_first: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    r"""The same recurrence as matrix products, chunk by chunk; the last chunk may be shorter. See `Recurrence`.

    Within a chunk, with L_i = Σ_{j<=i} log w_j and c_i = S_{i-1}ᵀ b_i,

        S_i = e^{L_i} S_0 + Σ_{j<=i} e^{L_i - L_j} (a_j c_jᵀ + k_j v_jᵀ)

    so that the c_i solve a triangular system, (I - A) C = e^{L'} B S_0 + D V with L'_i = L_{i-1} and

        A_ij = Σ_κ b_iκ a_jκ e^{L'_iκ - L_jκ},    D_ij = Σ_κ b_iκ k_jκ e^{L'_iκ - L_jκ},    j < i

    (the WY form of Yang et al., 2024, arXiv 2406.06484, generalized). For the delta rule, a = -k, U = V - C solves
    (I + D) U = V - e^{L'} B S_0. Only differences of L, which are at most 0, are exponentiated: the factor e^{-L}
    alone would overflow. Therefore, with a separate decay for every key feature, the factors of a chunk take C² K
    numbers.
    """
    terms = terms.plain
    n = terms.num_writes
    outputs = []
    for first in range(0, terms.query.shape[1], chunk_size):
        steps, writes = slice(first, first + chunk_size), slice(first * n, (first + chunk_size) * n)
        others: list[Any] = [None if term is None else term[:, writes].transpose(1, 2) for term in terms[1:]]
        of_chunk = Terms(terms.query[:, steps].transpose(1, 2), *others)
        resets_BC = None if resets_BT is None else resets_BT[:, steps]
        o_BHCV, S_BHKV = _chunk(of_chunk, S_BHKV, resets_BC, start_BHKV, read_first)
        outputs.append(o_BHCV.transpose(1, 2))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)), S_BHKV


def _chunk(
    terms: Terms, S_BHKV: Tensor, resets_BC: Tensor | None, start_BHKV: Tensor | None, read_first: bool
) -> tuple[Tensor, Tensor]:
    """One chunk; here, the dimension of heads comes before that of time."""
    query_BHCK, key_BHNK, value_BHNV, log_decay_BHNG, erase_BHNK, removal_BHNK = terms
    steps, writes = query_BHCK.shape[2], key_BHNK.shape[2]
    n = writes // steps
    decays = _Decays(log_decay_BHNG, resets_BC, n, key_BHNK)
    every_write = slice(0, writes)
    every_step = slice(0, writes, n) if read_first else slice(n, writes + 1, n)

    def before(x_BHRK: Tensor, seen: slice) -> Tensor:
        """What rows read from the state before the chunk or, after a reset, from the start state."""
        x_BHRK, is_first = decays.from_the_start(x_BHRK, seen), decays.in_first_segment(x_BHRK.shape[2])
        read_BHRV = x_BHRK @ S_BHKV
        if is_first is None or start_BHKV is None:
            return read_BHRV
        return torch.where(is_first, read_BHRV, x_BHRK @ start_BHKV)

    written = [(key_BHNK, value_BHNV)]  # as pairs of factors of outer products
    if erase_BHNK is not None:
        factors, read_BHNV = decays.between(every_write), before(erase_BHNK, every_write)
        D_BHNN = _products(erase_BHNK, key_BHNK, factors)
        if removal_BHNK is None:
            written = [(key_BHNK, _solve(D_BHNN, value_BHNV - read_BHNV))]
        else:
            A_BHNN = _products(erase_BHNK, removal_BHNK, factors)
            written.append((removal_BHNK, _solve(-A_BHNN, read_BHNV + D_BHNN @ value_BHNV)))

    factors, o_BHCV = decays.between(every_step), before(query_BHCK, every_step)
    end_BHKV = decays.at_the_end(S_BHKV, start_BHKV)
    for left_BHNK, right_BHNV in written:
        o_BHCV = o_BHCV + _products(query_BHCK, left_BHNK, factors) @ right_BHNV
        end_BHKV = end_BHKV + decays.to_the_end(left_BHNK).transpose(2, 3) @ right_BHNV
    return o_BHCV, end_BHKV


def _products(x_BHRK: Tensor, y_BHNK: Tensor, factors: Tensor) -> Tensor:
    """Σ_κ x_iκ y_jκ f_ijκ; the factors are [..., R, N] if they are the same for all κ, otherwise [..., R, N, K]."""
    if factors.ndim < 5:
        return (x_BHRK @ y_BHNK.transpose(2, 3)) * factors
    return (factors * (x_BHRK[:, :, :, None] * y_BHNK[:, :, None])).sum(-1)


def _solve(strictly_lower_BHNN: Tensor, right_BHNV: Tensor) -> Tensor:
    """(I + L)⁻¹ R."""
    return torch.linalg.solve_triangular(strictly_lower_BHNN, right_BHNV, upper=False, unitriangular=True)


def bounded(log_decay: Tensor) -> Tensor:
    """Log decays, clamped not far below where exp underflows to 0: in a sum, a huge one would round the others away."""
    return log_decay.clamp(min=2 * math.log(torch.finfo(log_decay.dtype).tiny))


class _Decays:
    """How much of what is written remains when it is read, within a chunk of N writes.

    A row that reads is given by the number of writes before it, which it has seen: the rows are a slice of 0 ... N.
    After a reset, nothing that was written before it is left.
    """

    def __init__(self, log_decay_BHNG: Tensor | None, resets_BC: Tensor | None, writes_per_step: int, like: Tensor):
        self.like, self.count = like, like.shape[2]
        self.log_BHMG = None  # the total log decay of the first 0 ... N writes
        if log_decay_BHNG is not None:
            self.log_BHMG = functional.pad(bounded(log_decay_BHNG).cumsum(2), (0, 0, 1, 0))
        self.segment_BN = self.origin_BN = None  # number of resets so far, first write after the last
        if resets_BC is not None:
            first_C = torch.arange(0, self.count, writes_per_step, device=like.device)
            self.segment_BN = resets_BC.cumsum(1).repeat_interleave(writes_per_step, 1)
            self.origin_BN = (resets_BC * first_C).cummax(1).values.repeat_interleave(writes_per_step, 1)

    def between(self, seen: slice) -> Tensor:
        """The decay from each write j to each row i, 0 if the row has not seen the write.

        Shape [R, N], [B, 1, R, N], [B, H, R, N] or [B, H, R, N, K].
        """
        writes_N = torch.arange(self.count, device=self.like.device)
        is_seen = writes_N < torch.arange(self.count + 1, device=self.like.device)[seen, None]
        if self.segment_BN is not None:
            of_rows_BR = self._rows(self.segment_BN, len(is_seen))
            is_seen = is_seen & (of_rows_BR[:, None, :, None] == self.segment_BN[:, None, None])
        if self.log_BHMG is None:
            return is_seen.to(self.like.dtype)
        difference = self.log_BHMG[:, :, seen, None] - self.log_BHMG[:, :, None, 1:]
        # masking after exp would give inf * 0 in the gradient
        factors = difference.masked_fill(~is_seen[..., None], -torch.inf).exp()
        return factors[..., 0] if factors.shape[-1] == 1 else factors

    def from_the_start(self, x_BHRK: Tensor, seen: slice) -> Tensor:
        """The rows, times the decay since the start of the chunk or since their last reset."""
        if self.log_BHMG is None:
            return x_BHRK
        log_BHRG = self.log_BHMG[:, :, seen]
        if self.origin_BN is not None:
            log_BHRG = log_BHRG - self._log_at(self._rows(self.origin_BN, log_BHRG.shape[2]))
        return x_BHRK * log_BHRG.exp()

    def to_the_end(self, x_BHNK: Tensor) -> Tensor:
        """What was written, times the fraction of it that is left at the end of the chunk."""
        if self.segment_BN is not None:
            is_last_BN = self.segment_BN == self.segment_BN[:, -1:]
            x_BHNK = torch.where(is_last_BN[:, None, :, None], x_BHNK, 0)
        if self.log_BHMG is None:
            return x_BHNK
        left = self.log_BHMG[:, :, -1:] - self.log_BHMG[:, :, 1:]
        return x_BHNK * left.exp()

    def at_the_end(self, S_BHKV: Tensor, start_BHKV: Tensor | None) -> Tensor:
        """What is left, at the end of the chunk, of the state before it or, after a reset, of the start state."""
        if self.segment_BN is not None and start_BHKV is not None:
            S_BHKV = torch.where(self.segment_BN[:, -1, None, None, None] == 0, S_BHKV, start_BHKV)
        if self.log_BHMG is None:
            return S_BHKV
        left = self.log_BHMG[:, :, -1:]
        if self.origin_BN is not None:
            left = left - self._log_at(self.origin_BN[:, -1:])
        return left.exp().transpose(2, 3) * S_BHKV

    def in_first_segment(self, rows: int) -> Tensor | None:
        """Which rows come before any reset, [B, 1, R, 1]; None if there are no resets."""
        return None if self.segment_BN is None else (self._rows(self.segment_BN, rows) == 0)[:, None, :, None]

    def _rows(self, of_writes_BN: Tensor, rows: int) -> Tensor:
        return of_writes_BN[:, :: self.count // rows]

    def _log_at(self, seen_BR: Tensor) -> Tensor:
        assert self.log_BHMG is not None
        _, heads, _, features = self.log_BHMG.shape
        return self.log_BHMG.gather(2, seen_BR[:, None, :, None].expand(-1, heads, -1, features))
