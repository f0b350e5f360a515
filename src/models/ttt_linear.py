"""TTT-Linear of Sun et al. (2024).

"Learning to (Learn at Test Time): RNNs with Expressive Hidden States", arXiv 2407.04620.

Shapes: B sequences, T time steps, n steps of a mini-batch, H heads, K features of query, key and value.
"""

from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from src.models.linear_core import need_two_features
from src.models.linear_parts import EPSILON
from src.models.recall_core import RecallCore
from src.ops.dispatch import Kernel
from src.ops.inputs import Inputs


class TTTMemory(NamedTuple):
    """The inner model at the start of the mini-batch, and the sums of its gradients and the steps since then."""

    S_BHKK: Tensor
    b_BHK: Tensor
    sum_S_BHKK: Tensor
    sum_b_BHK: Tensor
    position_B: Tensor


class TTTLinear(RecallCore):
    r"""A linear model as the memory, trained while the sequence is read: one step of gradient descent per input.

        z_j  = Sᵀ k_j + b                                            S and b are those at the start of the mini-batch
        ℓ_j  = ½ ‖LN(z_j) - (v_j - k_j)‖²                            for every head
        S_i  = S - c_i Σ_{j<=i} r_j ∂ℓ_j/∂S                          j from the start of the mini-batch; b_i likewise
        o_i  = q_i + LN(S_iᵀ q_i + b_i)
        r_j  = η σ(w_rᵀ x_j) / K,   c_i = max(0, 1/i + δ_i)    i = 1 ... n

    After n steps S and b become S_n and b_n, and a new mini-batch starts. The size n of a mini-batch is therefore part
    of the definition, and the state holds S, b, the two sums, and the position within the mini-batch. S_0 is learned,
    starting from N(0, 0.02²); so are the layer norm LN of every head and δ, which starts at 0. b_0 = 0.

    Within a mini-batch all gradients are taken at the same S, so its steps are computed at once (the dual form of the
    paper):

        Z = K S + b,   G = ∂ℓ/∂Z,   o = q + LN(Q S + b - c ⊙ (tril(Q Kᵀ) + tril(1)) (r ⊙ G))

    With `loss="plain"`, ℓ = ½ ‖Sᵀ k - v‖² and o = S_iᵀ q, without LN and b: with n = 1 this is DeltaNet with β = r and
    keys that are not normalized. The layer around it is as in `LinearCore`. The paper also rotates q and k by position.

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        key_size: features per query, key and value, K, 2 or more, since outputs are normalized; None for D / H.
        mini_batch: n, the number of steps of a mini-batch.
        fast_lr: η, the learning rate of the inner model.
        loss: the loss of the inner model, "normalized" or "plain", see above.
        conv_size: steps spanned by the convolution of q, k and v; 0 for no convolution.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 64,
        num_heads: Annotated[int, Ge(1)] = 2,
        key_size: Annotated[int, Ge(1)] | None = None,
        mini_batch: Annotated[int, Ge(1)] = 16,
        fast_lr: Annotated[float, Gt(0)] = 1.0,
        loss: Literal["normalized", "plain"] = "normalized",
        conv_size: Annotated[int, Ge(0)] = 4,
        kernel: Kernel = "auto",
    ):
        need_two_features("key_size", key_size, hidden_size, num_heads)
        super().__init__(
            input_size,
            hidden_size,
            num_heads=num_heads,
            key_size=key_size,
            value_size=key_size,
            conv_size=conv_size,
            output_gate=False,
            num_products=4,
            learned_start=True,
            chunk_size=mini_batch,
            gates=nn.Linear(input_size, num_heads, bias=False),
            kernel=kernel,
        )
        assert self.start_HKV is not None
        nn.init.normal_(self.start_HKV, std=0.02)
        self.mini_batch = mini_batch
        self.fast_lr = fast_lr
        self.is_plain = loss == "plain"
        self.added_n = nn.Parameter(torch.zeros(mini_batch))
        if not self.is_plain:
            self.gain_HK = nn.Parameter(torch.ones(num_heads, self.key_size))
            self.bias_HK = nn.Parameter(torch.zeros(num_heads, self.key_size))

    def empty(self, batch_size: int) -> TTTMemory:
        """S_0, b = 0, at the start of a mini-batch."""
        S_BHKK, b_BHK = self.start(batch_size), self.zeros(batch_size, self.num_heads, self.key_size)
        return TTTMemory(S_BHKK, b_BHK, torch.zeros_like(S_BHKK), b_BHK, b_BHK.new_zeros(batch_size).long())

    def scales(self) -> Tensor:
        """c_1 ... c_n."""
        places_n = torch.arange(1, self.mini_batch + 1, device=self.added_n.device, dtype=self.added_n.dtype)
        return torch.relu(1 / places_n + self.added_n)

    def rates(self, gates_H: Tensor) -> Tensor:
        """r, [..., H, 1]."""
        return self.fast_lr / self.key_size * torch.sigmoid(gates_H)[..., None]

    def gradient(self, z_HK: Tensor, k_HK: Tensor, v_HK: Tensor) -> Tensor:
        """∂ℓ/∂z, [..., H, K]."""
        if self.is_plain:
            return z_HK - v_HK
        unit_HK, scale_H1 = _normalized(z_HK)
        d_unit_HK = self.gain_HK * (self.gain_HK * unit_HK + self.bias_HK - (v_HK - k_HK))
        along_H1 = (d_unit_HK * unit_HK).mean(-1, keepdim=True)
        return scale_H1 * (d_unit_HK - d_unit_HK.mean(-1, keepdim=True) - unit_HK * along_H1)

    def read(self, q_HK: Tensor, z_HK: Tensor) -> Tensor:
        """o, from the query and the output z of the inner model for it, [..., H, K]."""
        return z_HK if self.is_plain else q_HK + self.gain_HK * _normalized(z_HK)[0] + self.bias_HK

    def recall(
        self, q_BHK: Tensor, k_BHK: Tensor, v_BHK: Tensor, gates_BH: Tensor, memory: TTTMemory
    ) -> tuple[Tensor, TTTMemory]:
        """One step of the equations in the class docstring, which carries the two sums along."""
        S_BHKK, b_BHK, sum_S_BHKK, sum_b_BHK, position_B = memory
        z_BHK = _product(S_BHKK, k_BHK) + b_BHK
        g_BHK = self.rates(gates_BH) * self.gradient(z_BHK, k_BHK, v_BHK)
        sum_S_BHKK = sum_S_BHKK + k_BHK[..., None] * g_BHK[:, :, None]
        sum_b_BHK = sum_b_BHK if self.is_plain else sum_b_BHK + g_BHK
        c_B11 = self.scales()[position_B][:, None, None]
        S_i_BHKK, b_i_BHK = S_BHKK - c_B11[..., None] * sum_S_BHKK, b_BHK - c_B11 * sum_b_BHK
        o_BHK = self.read(q_BHK, _product(S_i_BHKK, q_BHK) + b_i_BHK)

        position_B = (position_B + 1) % self.mini_batch
        ends_B11 = (position_B == 0)[:, None, None]
        ends_B111 = ends_B11[..., None]
        memory = TTTMemory(
            torch.where(ends_B111, S_i_BHKK, S_BHKK),
            torch.where(ends_B11, b_i_BHK, b_BHK),
            sum_S_BHKK.masked_fill(ends_B111, 0),
            sum_b_BHK.masked_fill(ends_B11, 0),
            position_B,
        )
        return o_BHK, memory

    @torch.no_grad()
    def memory(self, p: Any) -> Tensor:
        """The S_i of all heads, as the last step reads them, one below the other."""
        S_BHKK, _, sum_S_BHKK, _, position_B = self(p)[1].memory
        c_B = self.scales()[position_B - 1]  # after the last step of a mini-batch the sum is 0
        return (S_BHKK - c_B[:, None, None, None] * sum_S_BHKK).flatten(1, 2)

    @staticmethod
    def serves(inputs: Inputs) -> bool:
        """Only inputs without resets, which would make mini-batches end at different steps."""
        return inputs.resets is None

    def recall_all(
        self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor, memory: TTTMemory, _: None, *, is_empty: bool
    ) -> tuple[Tensor, TTTMemory]:
        """The dual form, one mini-batch after another."""
        places = {0} if is_empty else set(memory.position_B.tolist())
        if len(places) > 1:
            return self.recall_each(q, k, v, gates, memory)
        position, start, outputs = places.pop(), 0, []
        while start < q.shape[1]:
            end = min(start + self.mini_batch - position, q.shape[1])
            part = slice(start, end)
            o_BnHK, memory = self._dual(q[:, part], k[:, part], v[:, part], gates[:, part], memory, position)
            outputs.append(o_BnHK)
            position, start = 0, end
        return torch.cat(outputs, dim=1), memory

    def _dual(
        self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor, memory: TTTMemory, position: int
    ) -> tuple[Tensor, TTTMemory]:
        """The dual form of steps of one mini-batch, starting from this position in it."""
        S_BHKK, b_BHK, sum_S_BHKK, sum_b_BHK, position_B = memory
        end = position + q.shape[1]
        z_BnHK = torch.einsum("bnhk,bhkv->bnhv", k, S_BHKK) + b_BHK[:, None]
        g_BnHK = self.rates(gates) * self.gradient(z_BnHK, k, v)
        scores_BHnn = torch.einsum("bnhk,bmhk->bhnm", q, k).tril()
        change_BnHK = torch.einsum("bnhk,bhkv->bnhv", q, sum_S_BHKK) + torch.einsum(
            "bhnm,bmhv->bnhv", scores_BHnn, g_BnHK
        )
        sum_S_BHKK = sum_S_BHKK + torch.einsum("bnhk,bnhv->bhkv", k, g_BnHK)
        sums_BnHK = sum_b_BHK[:, None] + (torch.zeros_like(g_BnHK) if self.is_plain else g_BnHK.cumsum(1))
        change_BnHK, sum_b_BHK = change_BnHK + sums_BnHK, sums_BnHK[:, -1]
        c_n = self.scales()[position:end]
        z_BnHK = torch.einsum("bnhk,bhkv->bnhv", q, S_BHKK) + b_BHK[:, None] - c_n[:, None, None] * change_BnHK
        memory = TTTMemory(S_BHKK, b_BHK, sum_S_BHKK, sum_b_BHK, position_B + q.shape[1])
        if end == self.mini_batch:
            S_BHKK, b_BHK = S_BHKK - c_n[-1] * sum_S_BHKK, b_BHK - c_n[-1] * sum_b_BHK
            nothing = torch.zeros_like(S_BHKK), torch.zeros_like(b_BHK), torch.zeros_like(position_B)
            memory = TTTMemory(S_BHKK, b_BHK, *nothing)
        return self.read(q, z_BnHK), memory


def _product(S_BHKK: Tensor, x_BHK: Tensor) -> Tensor:
    return (S_BHKK * x_BHK[..., None]).sum(2)


def _normalized(z_K: Tensor) -> tuple[Tensor, Tensor]:
    """z normalized to mean 0 and variance 1, and the factor by which this scales it."""
    centered_K = z_K - z_K.mean(-1, keepdim=True)
    scale_1 = torch.rsqrt(centered_K.square().mean(-1, keepdim=True) + EPSILON)
    return centered_K * scale_1, scale_1
