"""DeltaNet: linear attention that corrects what it has stored, instead of adding to it.

Schlag, Irie and Schmidhuber (2021), "Linear Transformers Are Secretly Fast Weight Programmers", arXiv 2102.11174; Yang
et al. (2024), "Parallelizing Linear Transformers with the Delta Rule over Sequence Length", arXiv 2406.06484.

Shapes: B sequences, T time steps, H heads, K key features, V value features.
"""

from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from src.models.linear_core import LinearCore, head_sizes, need_two_features
from src.models.linear_parts import check_dpfp_order, features, num_features, unit_sum
from src.ops.dispatch import Kernel
from src.ops.linear_recurrence import DeltaTerms, Terms


class DeltaNet(LinearCore):
    r"""A linear recurrence that writes by the delta rule: it stores how v differs from what it already recalls.

        β_t = c σ(W_β x_t)                                           the strength of the write, for every head
        S_t = S_{t-1} + β_t κ_t (v_t - S_{t-1}ᵀ κ_t)ᵀ                S_0 = 0
        o_t = S_tᵀ q_t

    so w = 1, k = β κ, b = κ and a = -k. In the layer of Yang et al., κ and q are k and q scaled to unit length, so
    I - β κ κᵀ has the eigenvalues 1 and 1 - β: with β = 1 the old value of the key is erased exactly; with β = 2, which
    c = 2 allows, the state is reflected (Grazzi et al., 2024, arXiv 2411.12537). In the layer of Schlag et al., they
    are φ(k) / Σ φ(k) and φ(q) / Σ φ(q) with features φ >= 0, so that ‖κ‖ <= 1 and less is erased.

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        key_size: features per query and key, K; None for D / H.
        value_size: features per value, V, 2 or more; None for D / H.
        feature_map: "none" for unit length, "elu" or "dpfp" for features with unit sum.
        dpfp_order: the order of the feature map dpfp, below K; see `features`.
        max_beta: c, the largest strength of a write.
        conv_size: steps spanned by the convolution of q, k and v; 0 for no convolution.
        output_gate: whether there is an output gate.
        learned_start: whether S_0 is learned.
        chunk_size: steps per chunk in the plain PyTorch form.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 64,
        num_heads: Annotated[int, Ge(1)] = 2,
        key_size: Annotated[int, Ge(1)] | None = None,
        value_size: Annotated[int, Ge(1)] | None = None,
        feature_map: Literal["none", "elu", "dpfp"] = "none",
        dpfp_order: Annotated[int, Ge(1)] = 1,
        max_beta: Annotated[float, Gt(0), Le(2)] = 1.0,
        conv_size: Annotated[int, Ge(0)] = 4,
        output_gate: bool = False,
        learned_start: bool = False,
        chunk_size: Annotated[int, Ge(1)] = 32,
        kernel: Kernel = "auto",
    ):
        if feature_map == "elu":
            need_two_features("key_size", key_size, hidden_size, num_heads)
        rows, columns = head_sizes(key_size, value_size, hidden_size, num_heads)
        if feature_map == "dpfp":
            check_dpfp_order(dpfp_order, rows)
        if feature_map != "none":
            rows = num_features(feature_map, rows, dpfp_order)
        super().__init__(
            input_size,
            hidden_size,
            num_heads=num_heads,
            key_size=key_size,
            value_size=value_size,
            conv_size=conv_size,
            output_gate=output_gate,
            learned_start=learned_start,
            chunk_size=chunk_size,
            kernel=kernel,
            gates=nn.Linear(input_size, num_heads, bias=False),
            num_products=3,
            memory_size=(rows, columns),
        )
        self.feature_map, self.dpfp_order, self.max_beta = feature_map, dpfp_order, max_beta

    def terms(self, q: Tensor, k: Tensor, v: Tensor, gates: Any) -> Terms | DeltaTerms:
        """k = β κ and b = κ."""
        beta = self.max_beta * torch.sigmoid(gates)[..., None]
        if self.feature_map == "none":
            return DeltaTerms(q, k, v, beta)
        q, k = (unit_sum(features(self.feature_map, x, self.dpfp_order)) for x in (q, k))
        return Terms(q, beta * k, v, erase=k)
