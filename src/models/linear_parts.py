"""Parts of the layers around a linear recurrence: short convolution, features, normalized keys, decays.

Shapes: B sequences, T time steps, C channels, W steps of a window, K features of a key. Functions of tensors without
B and T in their names act position by position, on any leading dimensions.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from src.ops.linear_recurrence import EPSILON

FeatureMap = Literal["elu", "dpfp", "taylor"]


def last_reset(resets_BT: Tensor) -> Tensor:
    """The step of the latest reset up to and including each step [B, T]; -1 if there was none."""
    steps_T = torch.arange(resets_BT.shape[1], device=resets_BT.device)
    return torch.where(resets_BT, steps_T, -1).cummax(1).values


def short_convolution(
    x_BTC: Tensor, window_BWC: Tensor, weight_CL: Tensor, resets_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A causal convolution of every channel with its own L = W + 1 weights, the last one for the current step.

        y_t = Σ_l weight_l ⊙ x_{t-W+l},   l = 0 ... W

    The window holds the W inputs before the first step. Returns y and the window after the last step. Inputs before
    a reset count as 0.
    """
    time, width = x_BTC.shape[1], window_BWC.shape[1]
    padded_BSC = torch.cat([window_BWC, x_BTC], dim=1)
    if resets_BT is None:
        image_BC1S = padded_BSC.transpose(1, 2)[:, :, None]  # conv2d is three times as fast as conv1d
        y_BC1T = functional.conv2d(image_BC1S, weight_CL[:, None, None], groups=len(weight_CL))
        return y_BC1T[:, :, 0].transpose(1, 2), padded_BSC[:, time:]

    reset_BT1 = last_reset(resets_BT)[..., None]
    steps_T1 = torch.arange(-width, time, device=x_BTC.device)[:, None]

    def after_the_reset(values_BTC: Tensor, first: int, reset_BT1: Tensor) -> Tensor:
        steps = steps_T1[first : first + values_BTC.shape[1]]
        return torch.where((reset_BT1 >= 0) & (steps < reset_BT1), 0, values_BTC)

    y_BTC = x_BTC * weight_CL[:, width]
    for lag in range(width):
        y_BTC = y_BTC + after_the_reset(padded_BSC[:, lag : lag + time], lag, reset_BT1) * weight_CL[:, lag]
    return y_BTC, after_the_reset(padded_BSC[:, time:], time, reset_BT1[:, -1:])


def unit_sum(x_K: Tensor) -> Tensor:
    """x / (Σ x + ε), for nonnegative features (Schlag et al., 2021)."""
    return x_K / (x_K.sum(-1, keepdim=True) + EPSILON)


def num_features(feature_map: FeatureMap, size: int, order: int) -> int:
    """How many features a feature map computes from a vector of this size."""
    return {"elu": size, "dpfp": 2 * size * order, "taylor": 1 + size + size**2}[feature_map]


def check_dpfp_order(order: int, key_size: int) -> None:
    """Check that dpfp of this order yields no features that are always 0 or duplicates of others.

    Raises:
        ValueError: it yields such features.
    """
    if key_size == 1:
        raise ValueError("feature_map=dpfp: needs keys of 2 or more features, not 1")
    if order >= key_size:
        raise ValueError(f"dpfp_order={order}: must be below {key_size}, the number of features of a key")


def features(feature_map: FeatureMap, x_K: Tensor, order: int) -> Tensor:
    r"""The features φ(x), whose products φ(q)ᵀφ(k) are the values of a kernel.

    elu: elu(x) + 1 (Katharopoulos et al., 2020). dpfp: with r = [relu(x), relu(-x)], all products r_i r_{i-j} of
    entries j = 1 ... `order` places apart (Schlag et al., 2021). Orders of K and above add nothing: for j = K the
    products are relu(x) relu(-x) = 0, and for j above K they are those for 2K - j. taylor: [1, x, x xᵀ / √2] of x
    scaled by K^{-1/4}, so that φ(q)ᵀφ(k) is the second-order expansion of exp(qᵀk / √K) (Arora et al., 2024).
    """
    if feature_map == "elu":
        return x_K.clamp(max=0).exp() + x_K.relu()  # elu(x) + 1 without expm1, which takes four times as long
    if feature_map == "dpfp":
        r_R = torch.cat([x_K, -x_K], dim=-1).relu()
        return torch.cat([r_R * r_R.roll(j, -1) for j in range(1, order + 1)], dim=-1)
    x_K = x_K * x_K.shape[-1] ** -0.25
    products = (x_K[..., :, None] * x_K[..., None, :]).flatten(-2) / math.sqrt(2)
    return torch.cat([torch.ones_like(x_K[..., :1]), x_K, products], dim=-1)


def low_rank(input_size: int, size: int, rank: int, bias: bool = True) -> nn.Module:
    """A low-rank map W_2 W_1 x + c, with c = 0 at the start; without `bias` there is no c."""
    last = nn.Linear(rank, size, bias=bias)
    if bias:
        nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(input_size, rank, bias=False), last)


class Decay(nn.Module):
    r"""The logarithm of a decay, log α = -e^A softplus(z + c), with a learned A and c for every head.

    Args:
        num_heads: number of heads.
        num_decays: number of decays per head, each with its own c.
        init: "slow": A = 0, and c ranges from -4 to -6 across the heads, so that α = σ(-z - c) starts between 0.982 and
            0.998 for z = 0. "paper": e^A ~ U(1, 16) and softplus(c) log-uniform in [0.001, 0.1], as in Mamba-2 (Dao and
            Gu, 2024) and KDA, so that α starts between 0.2 and 0.999 and 1 / -log α has a median of about a dozen
            steps. The authors' program of Gated DeltaNet uses U(0, 16), which yields a few longer memories; here it is
            U(1, 16) for all cells.
    """

    def __init__(self, num_heads: int, num_decays: int, init: Literal["slow", "paper"]):
        super().__init__()
        if init == "slow":
            log_rate_H = torch.zeros(num_heads)
            bias_HG = -torch.linspace(4, 6, num_heads)[:, None].expand(num_heads, num_decays).clone()
        else:
            log_rate_H = torch.empty(num_heads).uniform_(1, 16).log()
            step_HG = torch.empty(num_heads, num_decays).uniform_(math.log(1e-3), math.log(1e-1)).exp()
            bias_HG = step_HG + torch.log(-torch.expm1(-step_HG))  # the inverse of softplus
        self.log_rate_H = nn.Parameter(log_rate_H)
        self.bias_HG = nn.Parameter(bias_HG)

    def forward(self, z_HG: Tensor) -> tuple[Tensor, Tensor]:
        """log α and the step size softplus(z + c), [..., H, G]."""
        step_HG = functional.softplus(z_HG + self.bias_HG)
        return -self.log_rate_H.exp()[:, None] * step_HG, step_HG
