"""The associative LSTM of Danihelka et al. (2016), "Associative Long Short-Term Memory", arXiv 1602.03032.

Shapes: B sequences, X input features, P projected features, H real numbers of a copy, N = H/2 complex entries, S
copies, K heads, D = K H outputs, R sums that depend on the last output, G sums of gates, V sums of complex vectors. A 2
before N stands for the real and the imaginary part.
"""

import math
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from src.models.base import Core
from src.ops.dispatch import Kernel


class ALSTMState(NamedTuple):
    """The outputs of all heads at the last step, and the copies of the memory."""

    h_BD: Tensor
    c_BSH: Tensor


class ALSTM(Core):
    r"""A recurrent network with a memory of keys bound to contents, stored in several copies and read with keys.

    Vectors are complex: N = H/2 entries, stored as H real numbers, first the real parts and then the imaginary ones.
    Gates are real, one for each entry. ⊙ is the entrywise product, complex if both factors are. Each of K heads writes
    its content u under a key r and reads with a key q; copy s permutes the entries of all keys by P_s:

        bound(v)  = v / max(1, |v|)                        entrywise: no modulus above 1, phases unchanged
        f, i, o   = σ(W_g h_{t-1} + V_g x_t + b_g)         the forget, input and output gate
        r_k, q_k  = bound(W_r h_{t-1} + V_r x_t + b_r)     for k = 1 ... K, likewise W_q, V_q, b_q
        u_k       = bound(V_u x_t + b_u)                   plus W_u h_{t-1} inside with `recurrent_content`
        c_t^s     = f ⊙ c_{t-1}^s + Σ_k P_s r_k ⊙ (i ⊙ u_k)        for s = 1 ... S
        h_t^k     = o ⊙ bound(1/S Σ_s P_s q_k ⊙ c_t^s)     h_0 = c_0 = 0

    With M pairs in a copy, the conjugate of one key retrieves its content plus the other contents with random phases:
    noise of variance M - 1. The noise of copies with differently ordered keys is nearly independent, so the noise of
    their mean has 1/S of the variance, without additional parameters. No conjugate is taken here: q learns to be one.

    The paper leaves open how several heads share a memory. Here all write to the same one, each its own content, and
    the output is the concatenation of what they read, K H numbers, all of which enter the next step. P_1 is the
    identity, since only the relative order of copies matters; the others are random, drawn once, and part of the state
    dict. `project` returns V x + b for the three gates, all r, all q and all u, in this order,
    [..., 3N + 3K H]. V is drawn from U(-1/sqrt(H), 1/sqrt(H)) and W from U(-1/sqrt(K H), 1/sqrt(K H)); b_f
    starts at `forget_bias`, the other biases at 0.

    Args:
        input_size: number of input features, X.
        hidden_size: real numbers per copy, H; even.
        num_copies: number of copies, S.
        num_heads: number of heads, K.
        recurrent_content: whether u depends on the previous output as well.
        forget_bias: initial value of b_f.
        kernel: see `Core`.
    """

    permutations_SN: Tensor

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(2)] = 50,
        num_copies: Annotated[int, Ge(1), Le(1000)] = 4,
        num_heads: Annotated[int, Ge(1)] = 3,
        recurrent_content: bool = False,
        forget_bias: float = 1.0,
        kernel: Kernel = "auto",
    ):
        if hidden_size % 2:
            raise ValueError(f"hidden_size={hidden_size}: must be even, for real and imaginary parts")
        super().__init__(input_size, hidden_size, kernel)
        self.num_copies = num_copies
        self.num_heads = num_heads
        self.num_entries = hidden_size // 2

        size = 3 * self.num_entries + 3 * num_heads * hidden_size
        reached = size if recurrent_content else size - num_heads * hidden_size
        self.input = nn.Linear(input_size, size)
        self.recurrent = nn.Linear(num_heads * hidden_size, reached, bias=False)

        for layer, units in ((self.input, hidden_size), (self.recurrent, self.output_size)):
            nn.init.uniform_(layer.weight, -1 / math.sqrt(units), 1 / math.sqrt(units))
        nn.init.zeros_(self.input.bias)
        nn.init.constant_(self.input.bias[: self.num_entries], forget_bias)

        orders = [torch.arange(self.num_entries), *(torch.randperm(self.num_entries) for _ in range(num_copies - 1))]
        self.register_buffer("permutations_SN", torch.stack(orders))

    def project(self, x: Tensor) -> Tensor:
        """The contribution of the input to the gates, the keys of all heads and their contents."""
        return self.input(x)

    def initial_state(self, batch_size: int) -> ALSTMState:
        """h = 0, c = 0."""
        return ALSTMState(
            self.zeros(batch_size, self.output_size), self.zeros(batch_size, self.num_copies, self.hidden_size)
        )

    @property
    def output_size(self) -> int:
        """D, the outputs of all heads."""
        return self.num_heads * self.hidden_size

    def step(self, p_BP: Tensor, state: ALSTMState) -> tuple[Tensor, ALSTMState]:
        """One step of the equations in the class docstring; the output is h."""
        h_BD, c_BSH = state
        reached = self.recurrent.out_features
        reached_BR = torch.addmm(p_BP[:, :reached], h_BD, self.recurrent.weight.t())
        sums_BP = torch.cat([reached_BR, p_BP[:, reached:]], dim=1)
        gates_BG, vectors_BV = sums_BP.tensor_split([3 * self.num_entries], dim=1)
        f_B11N, i_B11N, o_B11N = torch.sigmoid(gates_BG).unflatten(1, (3, 1, 1, self.num_entries)).unbind(1)
        vectors_B3K2N = vectors_BV.unflatten(1, (3, self.num_heads, 2, self.num_entries))
        r_BK2N, q_BK2N, u_BK2N = bound(vectors_B3K2N).unbind(1)

        c_BS2N = c_BSH.unflatten(2, (2, self.num_entries))
        written_BKS2N = complex_product(self._permuted(r_BK2N), (i_B11N * u_BK2N)[:, :, None])
        c_BS2N = f_B11N * c_BS2N + written_BKS2N.sum(1)
        read_BKS2N = complex_product(self._permuted(q_BK2N), c_BS2N[:, None])
        h_BD = (o_B11N * bound(read_BKS2N.mean(2))).flatten(1)
        return h_BD, ALSTMState(h_BD, c_BS2N.flatten(2))

    def _permuted(self, keys_BK2N: Tensor) -> Tensor:
        """Every key permuted by P_s for every copy, [B, K, S, 2, N]."""
        return keys_BK2N[..., self.permutations_SN].movedim(-2, 2)


def bound(v_2N: Tensor) -> Tensor:
    """v / max(1, |v|) for complex entries [..., 2, N].

    |v|² is clamped to at least 1 before the root is taken, since the derivative of the root is infinite at 0.
    """
    return v_2N / v_2N.square().sum(-2, keepdim=True).clamp(min=1).sqrt()


def complex_product(a_2N: Tensor, b_2N: Tensor) -> Tensor:
    """The entrywise product of complex vectors [..., 2, N]."""
    a_re, a_im = a_2N.unbind(-2)
    b_re, b_im = b_2N.unbind(-2)
    return torch.stack([a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re], dim=-2)
