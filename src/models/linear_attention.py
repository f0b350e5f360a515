"""Linear attention of Katharopoulos et al. (2020), "Transformers are RNNs", arXiv 2006.16236.

Shapes: B sequences, T time steps, H heads, K key features, V value features.
"""

from typing import Annotated, Any

from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional

from src.models.linear_core import LinearCore, head_sizes, need_two_features
from src.models.linear_parts import EPSILON, FeatureMap, check_dpfp_order, features, num_features
from src.ops.dispatch import Kernel
from src.ops.linear_recurrence import Terms


class LinearAttention(LinearCore):
    r"""A memory that sums outer products of keys and values: attention with features in place of the softmax.

        S_t = S_{t-1} + φ(k_t) v_tᵀ                       S_0 = 0
        z_t = z_{t-1} + φ(k_t)                            z_0 = 0
        o_t = S_tᵀ φ(q_t) / (z_tᵀ φ(q_t) + ε)             the denominator only with `normalize`, ε = 1e-6

    so w = 1 and nothing is erased; z is an additional column of S, for a value that is always 1. The features are
    elu(x) + 1, DPFP-ν of Schlag et al. (2021, arXiv 2102.11174), or the second-order Taylor expansion of exp in Based
    (Arora et al., 2024, arXiv 2402.18668). All of their kernels φ(q)ᵀφ(k) are nonnegative.

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        key_size: features per query and key, K; None for D / H.
        value_size: features per value, V, 2 or more; None for D / H.
        feature_map: the feature map φ, see `features`.
        dpfp_order: the order ν of the feature map dpfp, below K.
        normalize: whether to divide by the denominator.
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
        feature_map: FeatureMap = "elu",
        dpfp_order: Annotated[int, Ge(1)] = 1,
        normalize: bool = True,
        conv_size: Annotated[int, Ge(0)] = 0,
        output_gate: bool = False,
        learned_start: bool = False,
        chunk_size: Annotated[int, Ge(1)] = 32,
        kernel: Kernel = "auto",
    ):
        if feature_map == "elu" and normalize:
            need_two_features("key_size", key_size, hidden_size, num_heads)
        rows, columns = head_sizes(key_size, value_size, hidden_size, num_heads)
        if feature_map == "dpfp":
            check_dpfp_order(dpfp_order, rows)
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
            memory_size=(num_features(feature_map, rows, dpfp_order), columns + normalize),
        )
        self.feature_map, self.dpfp_order, self.normalize = feature_map, dpfp_order, normalize
        if self.start_HKV is not None and normalize:  # z_0 is not learned
            self.start_HKV = nn.Parameter(self.start_HKV.detach()[..., :-1].clone())

    def start(self, batch_size: int) -> Tensor:
        """S_0; its column z_0 is 0 even if S_0 is learned, so that denominators are positive."""
        S_BHKV = super().start(batch_size)
        if self.start_HKV is None or not self.normalize:
            return S_BHKV
        return functional.pad(S_BHKV, (0, 1))

    def terms(self, q: Tensor, k: Tensor, v: Tensor, gates: Any) -> Terms:
        """φ(q), φ(k), and v, with one more feature that is 1 for the denominator."""
        q, k = (features(self.feature_map, x, self.dpfp_order) for x in (q, k))
        return Terms(q, k, functional.pad(v, (0, 1), value=1.0) if self.normalize else v)

    def read_out(self, o_BTHV: Tensor, terms: Terms) -> Tensor:
        """o_t, with `normalize` divided by the denominator."""
        if not self.normalize:
            return o_BTHV
        return o_BTHV[..., :-1] / (o_BTHV[..., -1:] + EPSILON)
