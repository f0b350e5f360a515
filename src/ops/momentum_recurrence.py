"""The delta rule with momentum: a memory that follows a decaying sum of its past gradients.

    M_t = η_t M_{t-1} + θ_t k_t (v_t - S_{t-1}ᵀ k_t)ᵀ
    S_t = φ_t S_{t-1} + M_t,      o_t = S_tᵀ q_t

Shapes: B sequences, T time steps, C steps per chunk, H heads, K key features, V value features.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from src.ops.linear_recurrence import bounded


class MomentumTerms(NamedTuple):
    """The inputs of the recurrence at every step."""

    query: Tensor
    """q [B, T, H, K]."""
    key: Tensor
    """k [B, T, H, K]."""
    value: Tensor
    """v [B, T, H, V]."""
    rate: Tensor
    """θ [B, T, H]."""
    log_momentum: Tensor
    """log η [B, T, H], finite and at most 0."""
    log_kept: Tensor
    """log φ [B, T, H], finite and at most 0."""


def step(terms: MomentumTerms, S_BHKV: Tensor, M_BHKV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The definition: o, S and M after one step, from the terms of that step (without the dimension T)."""
    k_BHK1 = terms.key[..., None]
    error_BHV = terms.value - (S_BHKV * k_BHK1).sum(2)
    written_BHV = terms.rate[..., None] * error_BHV
    M_BHKV = terms.log_momentum.exp()[..., None, None] * M_BHKV + k_BHK1 * written_BHV[:, :, None]
    S_BHKV = terms.log_kept.exp()[..., None, None] * S_BHKV + M_BHKV
    return (S_BHKV * terms.query[..., None]).sum(2), S_BHKV, M_BHKV


def chunked(terms: MomentumTerms, S_BHKV: Tensor, M_BHKV: Tensor, *, chunk_size: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""All steps, chunk by chunk, each chunk as a triangular system: o [B, T, H, V], and the final S and M.

    With u_t = θ_t (v_t - S_{t-1}ᵀ k_t), where Φ_ti is the decay of S from step i to t, and H_ij that of M from j to i,

        S_t = φ_1..φ_t S_0 + m_t M_0 + Σ_{j<=t} Γ_tj k_j u_jᵀ,    Γ = Φ H,   m_t = Σ_i Φ_ti η_1..η_i

    so that u solves (I + L) u = θ ⊙ (V - what the keys read of S_0 and M_0), with L_tj = θ_t Γ_{t-1,j} k_tᵀk_j, j < t.
    """
    outputs = []
    pieces = zip(*(term.transpose(1, 2).split(chunk_size, dim=2) for term in terms), strict=True)
    for q, k, v, rate, log_momentum, log_kept in pieces:
        kept_BHCC, momentum_BHCC = _decays(log_kept), _decays(log_momentum)
        since_kept_BHC, since_momentum_BHC = log_kept.cumsum(2).exp(), log_momentum.cumsum(2).exp()
        gamma_BHCC = kept_BHCC @ momentum_BHCC
        of_M_BHC = (kept_BHCC @ since_momentum_BHC[..., None])[..., 0]

        before_S_BHC, before_M_BHC = _later(since_kept_BHC, 1), _later(of_M_BHC, 0)
        carried = before_S_BHC[..., None] * (k @ S_BHKV) + before_M_BHC[..., None] * (k @ M_BHKV)
        system_BHCC = rate[..., None] * (k @ k.mT) * _later(gamma_BHCC.mT, 0).mT
        u = torch.linalg.solve_triangular(system_BHCC, rate[..., None] * (v - carried), upper=False, unitriangular=True)
        read = since_kept_BHC[..., None] * (q @ S_BHKV) + of_M_BHC[..., None] * (q @ M_BHKV)
        outputs.append(read + ((q @ k.mT) * gamma_BHCC) @ u)

        kept, of_M, momentum = (x[..., -1, None, None] for x in (since_kept_BHC, of_M_BHC, since_momentum_BHC))
        S_BHKV = kept * S_BHKV + of_M * M_BHKV + k.mT @ (gamma_BHCC[:, :, -1, :, None] * u)
        M_BHKV = momentum * M_BHKV + k.mT @ (momentum_BHCC[:, :, -1, :, None] * u)
    return torch.cat(outputs, dim=2).transpose(1, 2), S_BHKV, M_BHKV


def _decays(log_BHC: Tensor) -> Tensor:
    """The products of the decays of steps j + 1 ... t, for j <= t; 0 for j > t."""
    sums_BHC = bounded(log_BHC).cumsum(2)
    differences_BHCC = sums_BHC[..., :, None] - sums_BHC[..., None, :]
    future_CC = torch.ones(log_BHC.shape[2], log_BHC.shape[2], dtype=torch.bool, device=log_BHC.device).triu(1)
    return differences_BHCC.masked_fill(future_CC, -torch.inf).exp()


def _later(x_C: Tensor, first: float) -> Tensor:
    """Shift x one step later along the last dimension, with `first` in front."""
    return torch.cat([torch.full_like(x_C[..., :1], first), x_C[..., :-1]], dim=-1)
