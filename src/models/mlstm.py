"""The mLSTM of Beck et al. (2024), "xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517.

Shapes: B sequences, T time steps, H heads, K key features, V value features.
"""

from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional

from src.models.linear_core import LinearCore, LinearInput, head_sizes
from src.ops.dispatch import Kernel
from src.ops.linear_recurrence import Recurrence, Terms

MOST = 80.0
"""The upper limit of -m_t in the bound e^{-m_t} of a denominator, which overflows in float32 above about 88."""


class MLSTMState(NamedTuple):
    """C and n of every head, the inputs that the convolution still needs, and the stabilizer."""

    S_BHKV: Tensor
    window_BWC: Tensor
    m_BH: Tensor


class MLSTM(LinearCore):
    r"""A memory with an exponential input gate, stabilized in log space, and a normalizer.

        f̃_t, ĩ_t = W [q_t, k_t, v_t] + b                              for every head, from q, k and v of all heads
        m_t = max(log σ(f̃_t) + m_{t-1}, ĩ_t)                          m_0 = 0
        C_t = σ(f̃_t) e^{m_{t-1} - m_t} C_{t-1} + e^{ĩ_t - m_t} k_t v_tᵀ / √K      C_0 = 0; n likewise, with v = 1
        o_t = C_tᵀ q_t / max(|n_tᵀ q_t|, e^{-m_t})

    so w = σ(f̃) e^{m_{t-1} - m_t}, k is e^{ĩ - m} k / √K, and n is an additional column of the memory. In units of
    e^{m} the bound is 1, so the output does not depend on m, and no ε is added. Since m depends only on the gates, it
    is computed for all steps beforehand, as a running maximum of ĩ_j - Σ_{i<=j} log σ(f̃_i). The norm of the outputs is
    a layer norm, the output gate a sigmoid. W starts at 0; the biases of f̃ range from 3 to 6 across the heads, and
    those of ĩ are drawn from N(0, 0.1²).

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        key_size: features per query and key, K; None for D / H.
        value_size: features per value, V, 2 or more, since the outputs are layer-normalized; None for D / H.
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
        conv_size: Annotated[int, Ge(0)] = 4,
        output_gate: bool = True,
        learned_start: bool = False,
        chunk_size: Annotated[int, Ge(1)] = 32,
        kernel: Kernel = "auto",
    ):
        rows, columns = head_sizes(key_size, value_size, hidden_size, num_heads)
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
            memory_size=(rows, columns + 1),
        )
        self.of_heads = nn.Linear(sum(self.channels), 2 * num_heads)
        nn.init.zeros_(self.of_heads.weight)
        with torch.no_grad():
            self.of_heads.bias.copy_(torch.cat([torch.linspace(3, 6, num_heads), 0.1 * torch.randn(num_heads)]))

    def make_norm(self) -> nn.Module:
        """A layer norm with a gain but no bias."""
        return nn.LayerNorm(self.value_size, bias=False)

    def gate(self, gate: Tensor) -> Tensor:
        """Apply a sigmoid."""
        return torch.sigmoid(gate)

    def initial_state(self, batch_size: int) -> MLSTMState:
        """C and n = S_0, a window of zeros, m = 0."""
        m_BH = self.zeros(batch_size, self.num_heads)
        return MLSTMState(self.start(batch_size), self.empty_window(batch_size), m_BH)

    def sequence(
        self, recurrence: Recurrence, p: LinearInput, state: Any, resets_BT: Tensor | None, only_last: bool
    ) -> tuple[Tensor, MLSTMState]:
        """The equations in the class docstring."""
        q, k, v, window_BWC = self.heads(p.channels_C, state.window_BWC, resets_BT)
        gates_BT2H = self.of_heads(torch.cat([x.flatten(-2) for x in (q, k, v)], dim=-1)).to(q.dtype)
        z_f_BTH, z_i_BTH = gates_BT2H.chunk(2, dim=-1)
        log_f_BTH = functional.logsigmoid(z_f_BTH)
        before_BTH, m_BTH = running_maximum(log_f_BTH, z_i_BTH, state.m_BH, resets_BT)

        log_decay_BTH1 = (log_f_BTH + before_BTH - m_BTH)[..., None]
        write_BTHK = (z_i_BTH - m_BTH).exp()[..., None] * k * self.key_size**-0.5
        terms = Terms(q, write_BTHK, functional.pad(v, (0, 1), value=1.0), log_decay_BTH1)
        o_BTHV, S_BHKV = self.recur(recurrence, terms, state.S_BHKV, resets_BT)
        bound_BTH1 = torch.maximum(o_BTHV[..., -1:].abs(), (-m_BTH).clamp(max=MOST).exp()[..., None])
        o_BTHV = o_BTHV[..., :-1] / bound_BTH1
        return self.mix(o_BTHV, p.output_gate, only_last), MLSTMState(S_BHKV, window_BWC, m_BTH[:, -1])


def running_maximum(
    log_f_BTH: Tensor, z_i_BTH: Tensor, m_BH: Tensor, resets_BT: Tensor | None
) -> tuple[Tensor, Tensor]:
    """m before and after every step; it restarts from 0 at a reset."""
    if resets_BT is None:
        total_BTH = log_f_BTH.cumsum(1)
        m_BTH = total_BTH + torch.maximum((z_i_BTH - total_BTH).cummax(1).values, m_BH[:, None])
        return torch.cat([m_BH[:, None], m_BTH[:, :-1]], dim=1), m_BTH
    before, after = [], []
    for t in range(log_f_BTH.shape[1]):
        m_BH = m_BH.masked_fill(resets_BT[:, t, None], 0)
        before.append(m_BH)
        m_BH = torch.maximum(log_f_BTH[:, t] + m_BH, z_i_BTH[:, t])
        after.append(m_BH)
    return torch.stack(before, dim=1), torch.stack(after, dim=1)
