"""RWKV-7 of Peng et al. (2025), "RWKV-7 Goose with Expressive Dynamic State Evolution", arXiv 2503.14456.

Shapes: B sequences, T time steps, X input features, H heads, K key features, V value features, D outputs.
"""

import math
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor, nn

from src.models.linear_core import head_sizes, need_two_features
from src.models.linear_parts import low_rank
from src.models.memory_core import MemoryCore
from src.ops.dispatch import Kernel
from src.ops.linear_recurrence import Recurrence, Terms, unit_length


class RWKV7State(NamedTuple):
    """The memory of every head, and the previous input."""

    S_BHKV: Tensor
    x_BX: Tensor


class RWKV7(MemoryCore):
    r"""A memory whose decay and rate of erasing are vectors, and which erases and writes with different keys.

    Each of r, w, k, v, a and g is computed from its own mixture of the current and the previous input,
    x + μ ⊙ (x_{t-1} - x), the token shift. For every head, with ⊙ over the key features,

        w_t = exp(-e^{-1/2} σ(W_2 tanh(W_1 x) + c_w))                the decay, between 0.545 and 1
        a_t = σ(A_2 A_1 x + c_a)                                     the rate of erasing
        κ_t = k_t ⊙ ξ at unit length,      k̃_t = k_t ⊙ (1 + (a_t - 1) ⊙ α)
        S_t = (Diag(w_t) - (a_t ⊙ κ_t) κ_tᵀ) S_{t-1} + k̃_t v_tᵀ     S_0 = 0
        o_t = LayerNorm(S_tᵀ r_t) + (r_tᵀ (ρ ⊙ k̃_t)) v_t
        y_t = W_o (o_t ⊙ G_2 σ(G_1 x))

    so k is k̃, b = κ and a = -a ⊙ κ: what κ reads from S_{t-1}, before it decays, is erased. Since decay and erasing
    are not multiplied, no choice of parameters makes this KDA. The ε of the norm is 64e-5, as in the paper, for heads
    of 64 features. The paper's residual connection to the values of the first layer is left out, since there is one
    layer. At the start ξ = 0.85, α = 1, ρ = 0, μ = 0.5 and c_a = 0, and c_w ranges from -6 to -1 over the features of a
    head, so that w lies between 0.998 and 0.85.

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        key_size: features per query and key, K; None for D / H.
        value_size: features per value, V, 2 or more, since the outputs are layer-normalized; None for D / H.
        gate_rank: number of rows of W_1, A_1 and G_1.
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
        gate_rank: Annotated[int, Ge(1)] = 16,
        learned_start: bool = False,
        chunk_size: Annotated[int, Ge(1)] = 8,
        kernel: Kernel = "auto",
    ):
        need_two_features("value_size", value_size, hidden_size, num_heads)
        key_size, value_size = head_sizes(key_size, value_size, hidden_size, num_heads)
        super().__init__(
            input_size,
            hidden_size,
            num_heads=num_heads,
            memory_size=(key_size, value_size),
            num_products=4,
            learned_start=learned_start,
            chunk_size=chunk_size,
            kernel=kernel,
        )
        keys, values = num_heads * key_size, num_heads * value_size
        self.shift_6X = nn.Parameter(torch.full((6, input_size), 0.5))
        self.receptance = nn.Linear(input_size, keys, bias=False)
        self.key = nn.Linear(input_size, keys, bias=False)
        self.value = nn.Linear(input_size, values, bias=False)
        decay = nn.Linear(gate_rank, keys)
        with torch.no_grad():
            decay.bias.copy_(torch.linspace(-6, -1, key_size).repeat(num_heads))
        self.decay = nn.Sequential(nn.Linear(input_size, gate_rank, bias=False), nn.Tanh(), decay)
        self.rate = low_rank(input_size, keys, gate_rank)
        self.gate = nn.Sequential(
            nn.Linear(input_size, gate_rank, bias=False), nn.Sigmoid(), nn.Linear(gate_rank, values, bias=False)
        )
        self.erase_HK = nn.Parameter(torch.full((num_heads, key_size), 0.85))
        self.write_HK = nn.Parameter(torch.ones(num_heads, key_size))
        self.bonus_HK = nn.Parameter(torch.zeros(num_heads, key_size))
        self.norm = nn.LayerNorm(value_size, eps=64e-5)
        self.output = nn.Linear(values, hidden_size, bias=False)

    def initial_state(self, batch_size: int) -> RWKV7State:
        """S = S_0, and a previous input of zeros."""
        return RWKV7State(self.start(batch_size), self.zeros(batch_size, self.input_size))

    def sequence(
        self, recurrence: Recurrence, p: Tensor, state: Any, resets_BT: Tensor | None, only_last: bool
    ) -> tuple[Tensor, RWKV7State]:
        """The equations in the class docstring; the inputs are mixed here, so `project` does not change them."""
        x_BTX = p.to(state.x_BX.dtype)
        last_BTX = torch.cat([state.x_BX[:, None], x_BTX[:, :-1]], dim=1)
        if resets_BT is not None:
            last_BTX = last_BTX.masked_fill(resets_BT[..., None], 0)
        shift_BTX = last_BTX - x_BTX
        x_r, x_w, x_k, x_v, x_a, x_g = (torch.addcmul(x_BTX, shift_BTX, mu_X) for mu_X in self.shift_6X)
        maps = ((self.receptance, x_r), (self.key, x_k), (self.value, x_v), (self.rate, x_a), (self.decay, x_w))
        r, k, v, z_a, z_w = (module(x).unflatten(-1, (self.num_heads, -1)) for module, x in maps)

        rate, log_decay = torch.sigmoid(z_a), -(torch.sigmoid(z_w) * math.exp(-0.5))
        erase, write = unit_length(k * self.erase_HK), k * (1 + (rate - 1) * self.write_HK)
        terms = Terms(r, write, v, log_decay, erase, -rate * erase)
        o_BTHV, S_BHKV = self.recur(recurrence, terms, state.S_BHKV, resets_BT)
        if only_last:
            o_BTHV, r, write, v, x_g = (x[:, -1:] for x in (o_BTHV, r, write, v, x_g))
        o_BTHV = self.norm(o_BTHV) + (r * self.bonus_HK * write).sum(-1, keepdim=True) * v
        return self.output(o_BTHV.flatten(-2) * self.gate(x_g)), RWKV7State(S_BHKV, x_BTX[:, -1])
