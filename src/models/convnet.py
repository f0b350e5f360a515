"""A convolutional network over a sequence of patches, the baseline of Ba et al. (2016), sections 4.2 and 4.3.

Shapes: B sequences, T time steps, X input features, H hidden units, N patches.
"""

import math
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor, nn

from src.models.base import Core
from src.models.init import uniform_fan_out_
from src.ops.dispatch import Form, Kernel
from src.ops.inputs import Inputs


class ConvNetState(NamedTuple):
    """The sum over the patches so far, and the position of the next one."""

    sum_BH: Tensor
    position_B: Tensor


class ConvNet(Core):
    r"""The same filters for every patch, and a fully connected layer over the feature maps of all patches.

        m_n = relu(C x_n + b)                      the feature maps at patch n = 1 ... N: H filters
        y   = relu(Σ_n U_n m_n + c)                fully connected: U = [U_1 ... U_N]

    With a linear head the network has three layers. If x_n are the patches of an image, the first layer is a
    convolution whose stride is the width of its kernel. As a core, it reads one patch at a time, and its state is the
    sum so far:

        s_t = s_{t-1} + U_t m_t,    y_t = relu(s_t + c),    s_0 = 0

    so the last output is the output of the network. After N patches, the weights U_1 ... U_N are used again. b and c
    start at 0. C and U are drawn from U(-1/sqrt(n), 1/sqrt(n)), where n is H for C, and N H for U, the number of
    features that it sums.

    Args:
        input_size: number of pixels of a patch, X.
        hidden_size: number of filters and of units, H.
        num_patches: number of patches, N.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        num_patches: Annotated[int, Ge(1)] = 24,
        kernel: Kernel = "auto",
    ):
        super().__init__(input_size, hidden_size, kernel)
        self.input = nn.Linear(input_size, hidden_size)
        self.U_NHH = nn.Parameter(torch.empty(num_patches, hidden_size, hidden_size))
        self.c_H = nn.Parameter(torch.zeros(hidden_size))

        uniform_fan_out_(self.input.weight)
        nn.init.zeros_(self.input.bias)
        bound = 1 / math.sqrt(num_patches * hidden_size)
        nn.init.uniform_(self.U_NHH, -bound, bound)

    def project(self, x: Tensor) -> Tensor:
        """The feature maps m."""
        return torch.relu(self.input(x))

    def initial_state(self, batch_size: int) -> ConvNetState:
        """s = 0, at the first patch."""
        start_BH = self.zeros(batch_size, self.hidden_size)
        return ConvNetState(start_BH, start_BH.new_zeros(batch_size, dtype=torch.int64))

    def step(self, p_BH: Tensor, state: ConvNetState) -> tuple[Tensor, ConvNetState]:
        """One step of the equations in the class docstring: the next patch."""
        U_BHH = self.U_NHH[state.position_B]
        sum_BH = state.sum_BH + torch.bmm(U_BHH, p_BH[:, :, None])[:, :, 0]
        return torch.relu(sum_BH + self.c_H), ConvNetState(sum_BH, (state.position_B + 1) % len(self.U_NHH))

    def forms(self) -> Iterator[Form]:
        """All patches at once, if the sequence starts at the first patch."""
        yield Form("vectorized", self._at_once, lambda inputs: inputs.resets is None)
        yield from super().forms()

    def _at_once(
        self, inputs: Inputs, state: ConvNetState | None, return_state: bool, return_sequence: bool
    ) -> tuple[Tensor, ConvNetState | None]:
        if state is not None:  # each sequence may be at another position
            return self._scanned(inputs, state, return_state, return_sequence)
        m_BTH = inputs.vectors
        num_sequences, time, _ = m_BTH.shape
        U_THH = self.U_NHH[torch.arange(time, device=m_BTH.device) % len(self.U_NHH)]
        if return_sequence:
            sum_BTH = torch.einsum("thk,btk->bth", U_THH, m_BTH).cumsum(1)
            sum_BH, y = sum_BTH[:, -1], torch.relu(sum_BTH + self.c_H)
        else:
            sum_BH = m_BTH.flatten(1) @ U_THH.transpose(1, 2).flatten(0, 1)
            y = torch.relu(sum_BH + self.c_H)
        position_B = torch.full((num_sequences,), time % len(self.U_NHH), device=m_BTH.device)
        return y, ConvNetState(sum_BH, position_B) if return_state else None

    def flops(self, length: int) -> int:
        """As in `Core`, with a matrix for every patch, including the first."""
        return 2 * 3 * length * self.hidden_size**2
