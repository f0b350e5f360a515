"""Two cells whose settings and buffers tests change, and a check that holds for every core with a kernel.

Shapes: B sequences, T time steps, H hidden units.
"""

import torch

from tests.ops.generated.steps import Cell, H, X

B, T = 3, 4


class Leaky(Cell):
    """h_t = d h_{t-1} + g(W h_{t-1} + p_t), with g = tanh."""

    def __init__(self, decay=0.9, activation=torch.tanh):
        super().__init__()
        self.decay, self.activation = decay, activation

    def step(self, p, h):
        h = self.decay * h + self.activation(self.W(h) + p)
        return h, h


class Ordered(Cell):
    """A cell with an order of the units that is a buffer, and a factor that is computed from parameters."""

    def step(self, p, h):
        h = torch.tanh(self.W(h)[:, self.order_H] + p * torch.exp(self.rate_H))
        return h, h


def assert_fused_and_right(core):
    assert core.is_fused
    p_BTP, h_BH = core.project(torch.randn(B, T, X)), 0.3 * torch.randn(B, H)
    results = []
    for run in (core, core.scan):
        y_BTH, _ = run(p_BTP, h_BH)
        weights = [p for name, p in core.named_parameters() if name in ("W.weight", "recurrent.weight")]
        results.append([y_BTH.detach(), *torch.autograd.grad(y_BTH.square().sum(), weights)])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)
