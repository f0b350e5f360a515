"""Softmax attention (Vaswani et al., 2017, arXiv 1706.03762) over a window of the past, a memory that keeps everything.

Shapes: B sequences, T time steps, H heads, K key features, V value features, W earlier steps that are kept.
"""

from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor

from src.models.linear_core import LinearInput
from src.models.linear_parts import last_reset
from src.models.recall_core import RecallCore
from src.ops.dispatch import Kernel


class AttentionMemory(NamedTuple):
    """Keys and values of the last W steps, the newest last, and how many of these steps there have been."""

    k_BWHK: Tensor
    v_BWHV: Tensor
    count_B: Tensor


class Attention(RecallCore):
    r"""Causal softmax attention in place of a memory of fixed size, as the reference for what such a memory loses.

        o_t = Σ_τ softmax_τ(q_tᵀ k_τ / √K) v_τ                       over the last `window` steps τ, t included

    The state consists of the keys and values of the last `window` - 1 steps; `state_size` counts all of these steps,
    even those before the sequence starts. With a window as long as the sequences this is full attention, with a shorter
    one sliding-window attention. There are no positional encodings: order enters through the convolution. The layer
    around it is as in `LinearCore`.

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        key_size: features per query and key, K; None for D / H.
        value_size: features per value, V, 2 or more; None for D / H.
        window: number of steps that are attended to, including the current one.
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
        value_size: Annotated[int, Ge(1)] | None = None,
        window: Annotated[int, Ge(1)] = 256,
        conv_size: Annotated[int, Ge(0)] = 4,
        kernel: Kernel = "auto",
    ):
        super().__init__(
            input_size,
            hidden_size,
            num_heads=num_heads,
            key_size=key_size,
            value_size=value_size,
            conv_size=conv_size,
            output_gate=False,
            learned_start=False,
            chunk_size=1,
            kernel=kernel,
        )
        self.window = window

    def empty(self, batch_size: int) -> AttentionMemory:
        """The memory before the first step."""
        shape = batch_size, self.window - 1, self.num_heads
        k_BWHK, v_BWHV = self.zeros(*shape, self.key_size), self.zeros(*shape, self.value_size)
        return AttentionMemory(k_BWHK, v_BWHV, self.zeros(batch_size).long())

    def recall(
        self, q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, _gates: None, memory: AttentionMemory
    ) -> tuple[Tensor, AttentionMemory]:
        """One step of the equation in the class docstring."""
        k_BwHK = torch.cat([memory.k_BWHK, k_BHK[:, None]], dim=1)
        v_BwHV = torch.cat([memory.v_BWHV, v_BHV[:, None]], dim=1)
        ages_w = torch.arange(self.window - 1, -1, -1, device=q_BHK.device)
        scores_BHw = torch.einsum("bhk,bwhk->bhw", q_BHK, k_BwHK) * self.key_size**-0.5
        scores_BHw = scores_BHw.masked_fill((ages_w > memory.count_B[:, None])[:, None], -torch.inf)
        o_BHV = torch.einsum("bhw,bwhv->bhv", scores_BHw.softmax(2), v_BwHV)
        count_B = (memory.count_B + 1).clamp(max=self.window - 1)
        return o_BHV, AttentionMemory(k_BwHK[:, 1:], v_BwHV[:, 1:], count_B)

    def recall_all(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        _gates: None,
        memory: AttentionMemory,
        resets_BT: Tensor | None,
        *,
        is_empty: bool,
    ) -> tuple[Tensor, AttentionMemory]:
        """All steps at once, preceded by the earlier steps in the memory."""
        time, kept = q.shape[1], self.window - 1
        k_BSHK, v_BSHV = torch.cat([memory.k_BWHK, k], dim=1), torch.cat([memory.v_BWHV, v], dim=1)
        steps_S = torch.arange(-kept, time, device=q.device)
        steps_T = steps_S[kept:]
        first_BT = -memory.count_B[:, None].expand(-1, time)
        count_B = memory.count_B + time
        k_end_BWHK, v_end_BWHV = k_BSHK[:, time:], v_BSHV[:, time:]
        if resets_BT is not None:
            reset_BT = last_reset(resets_BT)
            first_BT = torch.where(reset_BT < 0, first_BT, reset_BT)
            count_B = time - first_BT[:, -1]
            is_before_BW11 = (steps_S[time:] < reset_BT[:, -1:])[..., None, None] & (reset_BT >= 0)[
                :, -1, None, None, None
            ]
            k_end_BWHK, v_end_BWHV = (x.masked_fill(is_before_BW11, 0) for x in (k_end_BWHK, v_end_BWHV))
        if is_empty:  # none of its steps are attended to
            k_BSHK, v_BSHV, steps_S = k, v, steps_T
        is_seen_TS = (steps_S <= steps_T[:, None]) & (steps_S > steps_T[:, None] - self.window)
        is_seen_BTS = is_seen_TS & (steps_S >= first_BT[..., None])
        scores_BHTS = torch.einsum("bthk,bshk->bhts", q, k_BSHK) * self.key_size**-0.5
        scores_BHTS = scores_BHTS.masked_fill(~is_seen_BTS[:, None], -torch.inf)
        o_BTHV = torch.einsum("bhts,bshv->bthv", scores_BHTS.softmax(3), v_BSHV)
        return o_BTHV, AttentionMemory(k_end_BWHK, v_end_BWHV, count_B.clamp(max=kept))

    @torch.no_grad()
    def attention(self, p: LinearInput) -> Tensor:
        """The softmax of the last step over the earlier ones, averaged over the heads; 0 outside the window."""
        q_BTHK, k_BTHK, _, _ = self.heads(p.channels_C, self.empty_window(len(p.channels_C)), None)
        scores_BHT = torch.einsum("bhk,bthk->bht", q_BTHK[:, -1], k_BTHK) * self.key_size**-0.5
        scores_BHT[..., : -self.window] = -torch.inf
        return scores_BHT.softmax(2).mean(1)[:, :-1]

    def memory(self, p: LinearInput) -> None:
        """None, since the memory holds steps, not a matrix."""

    def flops(self, length: int) -> int:
        """Two products with each step that is attended to."""
        seen = sum(min(t, self.window) for t in range(1, length + 1))
        return 2 * 3 * seen * self.num_heads * (self.key_size + self.value_size)
