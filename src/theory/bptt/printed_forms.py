"""The derivation of back-propagation through time as printed: one wrong factor at a time, with its correction.

Shapes: M hidden units, K classes.
"""

from typing import NamedTuple

import numpy as np

from src.theory.bptt import jacobians
from src.theory.bptt.jacobians import Array, Chain, Network, Pass, tanh_jacobian

REPORT, FINAL = "Wayman & Mathew, report", "Wayman & Mathew, final report"


class Slip(NamedTuple):
    """A factor of the chain rule that is wrong in print."""

    name: str
    right: str
    """The correct statement."""
    source: str
    printed: str
    chain: Chain
    """The correct chain except for this factor, which is as printed."""
    reading: bool = False
    """Whether the printed form is ambiguous, and wrong only in this reading."""


def slips(network: Network) -> list[Slip]:
    """All slips that affect a single factor in the gradient of the simple recurrent network."""
    num_classes, M = network.V_KM.shape
    eye_MM = np.eye(M)

    def with_o_in_numerator(p: Pass) -> Array:
        e_K = np.exp(p.o_K)
        printed_KK = (e_K.sum() * p.o_K[None] - np.outer(e_K, e_K)) / e_K.sum() ** 2
        return np.where(np.eye(num_classes) > 0, Chain().prediction_by_logits(p), printed_KK)

    def with_own_exponential(p: Pass) -> Array:
        squared_KK = np.broadcast_to(-np.square(p.prediction_K)[:, None], (num_classes, num_classes))
        return np.where(np.eye(num_classes) > 0, Chain().prediction_by_logits(p), squared_KK)

    def last_step_only(p: Pass, t: int) -> Array:
        return Chain().sum_by_W(p, t) * (t == len(p.a_TM) - 1)

    def not_transposed(W_MM: Array, now_MM: Array, before_MM: Array) -> Array:
        return W_MM.T @ before_MM

    top, back = f"{REPORT}, section 6.2", f"{REPORT}, section 6.3"
    return [
        Slip(
            "softmax Jacobian with y for ŷ",
            "The Jacobian of the softmax is diag(ŷ) - ŷ ŷᵀ",
            top,
            "diag(y) - y yᵀ, exactly 0 for a one-hot y",
            Chain(prediction_by_logits=lambda p: np.diag(p.y_K) - np.outer(p.y_K, p.y_K)),
        ),
        Slip(
            "o(l) in the softmax numerator",
            "Off the diagonal, the numerator of ∂ŷ_i/∂o_l is (Σ exp)·0 - exp(o_i) exp(o_l)",
            top,
            "(Σ exp)(o_l) - exp(o_i) exp(o_l)",
            Chain(prediction_by_logits=with_o_in_numerator),
        ),
        Slip(
            "exp(o_j) for exp(o_l)",
            "Off the diagonal, ∂ŷ_j/∂o_l = -ŷ_j ŷ_l has the exponentials of both",
            FINAL,
            "exp(o_j) in place of exp(o_l), which gives -ŷ_j²",
            Chain(prediction_by_logits=with_own_exponential),
        ),
        Slip(
            "derivative by y for ŷ",
            "J_ŷ E = ∂E/∂ŷᵀ = -(y ⊘ ŷ)ᵀ",
            top,
            "∂E/∂yᵀ, which is -(ln ŷ)ᵀ",
            Chain(loss_by_prediction=lambda p: -np.log(p.prediction_K)),
        ),
        Slip(
            "V h summed over k columns",
            "V h = Σ v_i h_i has a term for each of the m columns v_i of V",
            top,
            "the sum ends at i = k",
            Chain(logits_by_state=lambda V_KM: np.where(np.arange(M) < num_classes, V_KM, 0)),
        ),
        Slip(
            "tanh derivative at h for a",
            "J_a h = diag(1 - tanh²(a))",
            top,
            "∂ tanh(h(t))/∂aᵀ, the derivative being taken at h(t)",
            Chain(state_by_sum=lambda p, t: tanh_jacobian(p.h_T1M[t + 1])),
        ),
        Slip(
            "h(t) for h(t-1)",
            "J_W a_t = h_{t-1}ᵀ ⊗ I, because a_t = W h_{t-1} + U x_t + b",
            top,
            "h_tᵀ ⊗ I",
            Chain(sum_by_W=lambda p, t: np.kron(p.h_T1M[t + 1][None], eye_MM)),
        ),
        Slip(
            "no sum over time",
            "J_W E_t = Σ_τ δ_τ (h_{τ-1}ᵀ ⊗ I), over all steps τ ≤ t",
            back,
            "(J_{a_t} E_t)(J_W a_t), the last step only",
            Chain(sum_by_W=last_step_only),
        ),
        Slip(
            "sum over time from τ = 2",
            "The sum starts at τ = 1 unless h_0 is zero",
            FINAL,
            "it starts at τ = 2",
            Chain(first=1),
        ),
        Slip(
            "J of h(t) for h(t-1) in δ(t-1)",
            "J_{a_{t-1}} E = (J_{h_t} E)(J_{h_{t-1}} h_t)(J_{a_{t-1}} h_{t-1})",
            back,
            "its last factor is J_{a_{t-1}} h_t",
            Chain(first_step_back=lambda W_MM, now_MM, before_MM: W_MM @ now_MM @ W_MM @ before_MM),
        ),
        Slip(
            "W for Wᵀ in ∇E",
            "∇_{a_τ} E = diag(f'(a_τ)) Wᵀ δ_{τ+1}, with every ∇ a transposed Jacobian",
            back,
            "∇_h a, if it is read as W itself",
            Chain(first_step_back=not_transposed, step_back=not_transposed),
            reading=True,
        ),
    ]


class PrintedLoss(NamedTuple):
    """A loss that is wrong in print."""

    name: str
    right: str
    source: str
    printed: str
    loss: jacobians.Loss


PRINTED_LOSSES = (
    PrintedLoss(
        "no logarithm in E",
        "The negative log-likelihood is the cross-entropy itself, E = -ΣΣ y ln ŷ",
        f"{REPORT}, section 7",
        'E = -ΣΣ ŷ^y, "the negative logarithm of the cross entropy"',
        lambda prediction_K, y_K: -(prediction_K**y_K).sum(),
    ),
    PrintedLoss(
        "no minus sign in E",
        "The loss of the last step is -Σ y ln ŷ",
        FINAL,
        "Σ y ln ŷ",
        lambda prediction_K, y_K: -jacobians.cross_entropy(prediction_K, y_K),
    ),
)
