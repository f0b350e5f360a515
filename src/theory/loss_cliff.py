"""A cliff in the loss of one recurrent unit, and the effect of gradient-norm clipping.

Shapes: S points of a slice.
"""

from typing import Annotated, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Gt
from matplotlib.figure import Figure
from torch import Tensor, nn

from src.theory.base import Claim, Demonstration
from src.theory.claims import at_least, at_most, near
from src.theory.figures import LIMIT, heading, line, wrapped

PASCANU = "Pascanu, Mikolov & Bengio (2013), section 2.3 and figure 6"


class Cliff(NamedTuple):
    """The loss on a slice and on the weight-bias plane, and two runs of gradient descent."""

    claims: tuple[Claim, ...]
    num_steps: int
    biases: np.ndarray
    losses: np.ndarray
    gradients: np.ndarray
    fold: float
    """The bias at which the lower fixed point disappears."""
    plane_weights: np.ndarray
    plane_biases: np.ndarray
    plane: np.ndarray
    """Losses on the plane, [biases, weights]."""
    clipped: np.ndarray
    """Weight and bias along the descent with clipping, [updates + 1, 2]."""
    free: np.ndarray
    """The same without clipping."""


def loss_of(w: Tensor, b: Tensor, num_steps: int, target: float) -> Tensor:
    """The loss (h_T - target)² after iterating h ← σ(w h + b) from h = 0."""
    h = torch.zeros_like(b)
    for _ in range(num_steps):
        h = torch.sigmoid(w * h + b)
    return (h - target) ** 2


def fold_bias(w: float) -> float:
    """The bias at which the lower fixed point of h = σ(w h + b) meets the saddle: w h (1 - h) = 1, for w > 4."""
    h = (1 - np.sqrt(1 - 4 / w)) / 2
    return float(np.log(h / (1 - h)) - w * h)


def excess_bias(w: float, num_steps: int) -> float:
    """How far beyond the fold the bias must be for the passage of its bottleneck to take this many steps, (π/T)²/(ac).

    Near the fold a step changes h by a · excess + c (h - h_fold)², with a = ∂M/∂b = h(1 - h) and
    c = ½ ∂²M/∂h² = ½ w² h(1 - h)(1 - 2h).
    """
    h = (1 - np.sqrt(1 - 4 / w)) / 2
    slope = h * (1 - h)
    return float((np.pi / num_steps) ** 2 / (slope * 0.5 * w**2 * slope * (1 - 2 * h)))


def gradient_by_hand(w: float, b: float, num_steps: int, target: float) -> np.ndarray:
    """∂loss/∂(w, b), from the forward recursion for ∂h/∂(w, b)."""
    h, dh = 0.0, np.zeros(2)
    for _ in range(num_steps):
        h_next = 1 / (1 + np.exp(-(w * h + b)))
        dh = h_next * (1 - h_next) * (np.array([h, 1.0]) + w * dh)
        h = h_next
    return 2 * (h - target) * dh


def descend(
    start: tuple[float, float], rate: float, threshold: float | None, updates: int, num_steps: int, target: float
) -> np.ndarray:
    """Gradient descent on weight and bias, [updates + 1, 2], with the gradient norm clipped to `threshold` if given."""
    parameter = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = torch.optim.SGD([parameter], lr=rate)
    path = [parameter.detach().numpy().copy()]
    for _ in range(updates):
        optimizer.zero_grad()
        loss_of(parameter[0], parameter[1], num_steps, target).backward()
        if threshold is not None:
            nn.utils.clip_grad_norm_([parameter], threshold)
        optimizer.step()
        path.append(parameter.detach().numpy().copy())
    return np.array(path)


def turned_by(step: np.ndarray, direction: np.ndarray) -> float:
    """The distance between two vectors scaled to length 1: 0 if their directions are equal, 2 if they are opposite."""
    return float(np.linalg.norm(step / np.linalg.norm(step) - direction / np.linalg.norm(direction)))


def run(
    weight: Annotated[float, Gt(4)] = 6.0,
    num_steps: Annotated[int, Ge(5)] = 50,
    target: float = 0.15,
    resolution: Annotated[int, Ge(2)] = 4001,
) -> Cliff:
    """Compute the loss on a slice across its cliff, and descend from the cliff with and without clipping."""
    fold, delay = fold_bias(weight), excess_bias(weight, num_steps)
    biases = np.linspace(fold - 0.6, fold + 0.6, resolution)
    b = torch.from_numpy(biases).requires_grad_()
    losses = loss_of(torch.tensor(weight, dtype=torch.float64), b, num_steps, target)
    gradients = torch.autograd.grad(losses.sum(), b)[0].numpy()
    steepest = int(abs(gradients).argmax())
    plane_weights = weight + np.linspace(-0.3, 0.3, 200)
    plane_biases = fold + np.linspace(-0.2, 0.12, 200)
    grid_b, grid_w = np.meshgrid(plane_biases, plane_weights, indexing="ij")
    plane = loss_of(torch.from_numpy(grid_w), torch.from_numpy(grid_b), num_steps, target).numpy()

    start, rate, threshold = (weight, float(biases[steepest])), 0.05, 1.0
    clipped = descend(start, rate, threshold, 60, num_steps, target)
    free = descend(start, rate, None, 60, num_steps, target)
    by_hand = gradient_by_hand(*start, num_steps, target)
    parameter = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    by_torch = torch.autograd.grad(loss_of(parameter[0], parameter[1], num_steps, target), parameter)[0].numpy()
    jump = np.ptp(losses.detach().numpy()[abs(biases - biases[steepest]) < 0.01])
    final_clipped, final_free = (
        float(loss_of(torch.tensor(path[-1, 0]), torch.tensor(path[-1, 1]), num_steps, target))
        for path in (clipped, free)
    )
    shortened = near(
        "Clipping keeps the direction of the gradient and shortens it to the threshold: g min(1, θ/‖g‖)",
        "Pascanu, Mikolov & Bengio (2013), algorithm 1",
        rate * threshold,
        float(np.linalg.norm(clipped[1] - clipped[0])),
        1e-6,
        "length of the first step; torch adds 1e-6 to the norm",
    )
    claims = (
        near(
            f"Back-propagation through {num_steps} steps and the forward recursion give the same gradient, even on the "
            "cliff",
            "chain rule, in both orders",
            0.0,
            float(np.linalg.norm(by_hand - by_torch) / np.linalg.norm(by_hand)),
            1e-10,
            "relative; rounding, amplified on the cliff",
        ),
        near(
            "The loss has a cliff just beyond the end of the lower fixed point, w h(1 - h) = 1: at the bias for which "
            f"the passage takes {num_steps} steps",
            "saddle-node bifurcation; Strogatz (2015), section 4.3: a bottleneck takes π/√(ac excess) steps",
            fold + delay,
            float(biases[steepest]),
            0.25 * delay,
            f"a quarter of the excess, {delay:.4f}: the orbit starts at a finite distance from the bottleneck",
        ),
        at_least(
            "There the gradient is more than a thousand times its usual size",
            PASCANU,
            1000.0,
            float(abs(gradients).max() / np.median(abs(gradients))),
            "largest over median |∂loss/∂b| of the slice",
        ),
        at_least(
            "Within 0.01 of bias the loss rises by most of its range",
            PASCANU,
            0.5,
            float(jump / np.ptp(losses.detach().numpy())),
            "share of the range over the slice",
        ),
        shortened._replace(holds=shortened.holds and turned_by(clipped[1] - clipped[0], -by_hand) < 1e-6),
        at_least(
            "Without clipping, one step from the cliff leaves the region for good",
            PASCANU,
            1.0,
            float(np.linalg.norm(free[1:] - free[0], axis=1).min()),
            f"least distance from the start after a step at a rate of {rate}; the slice is 1.2 wide",
        ),
        at_most(
            "With clipping, descent continues to a low loss",
            PASCANU,
            0.01,
            final_clipped,
            f"after {len(clipped) - 1} updates; without clipping it is {final_free:.3g}",
        ),
    )
    loss_and_gradient = losses.detach().numpy(), abs(gradients)
    on_the_plane = plane_weights, plane_biases, plane, clipped, free
    return Cliff(claims, num_steps, biases, *loss_and_gradient, fold, *on_the_plane)


def draw(result: Cliff) -> Figure:
    """The slice with its gradient, and the two descents on the plane."""
    figure, (loss, gradient, plane) = wrapped(3)
    for axes in (loss, gradient):
        axes.axvline(result.fold, **LIMIT)
        axes.set(xlabel="bias b", xticks=[-3, -2.5, -2])
    loss.plot(result.biases, result.losses, **line(0))
    loss.text(result.fold - 0.04, 0.3, "fold", rotation=90, ha="right", fontsize=9)
    loss.set_ylabel(f"loss after {result.num_steps} steps")
    heading(loss, "A cliff in the loss")
    gradient.semilogy(result.biases, result.gradients, **line(0))
    gradient.set_ylabel("|∂loss/∂b|")
    heading(gradient, "The gradient on it")

    plane.grid(visible=False)
    image = plane.pcolormesh(result.plane_weights, result.plane_biases, result.plane, cmap="Greys", rasterized=True)
    figure.colorbar(image, ax=plane, label="loss")
    plane.plot(*result.clipped.T, **line(1, marker=True) | {"markersize": 3.5}, label="clipped")
    length = np.linalg.norm(result.free[1] - result.free[0])
    plane.plot(*result.free[:2].T, **line(2), label=f"not clipped ({length:.0f} long)")
    plane.plot(*result.clipped[0], "o", color="white", markeredgecolor="black", markersize=7)
    limits = (result.plane_weights[[0, -1]], result.plane_biases[[0, -1]])
    plane.set(xlabel="weight w", ylabel="bias b", xlim=limits[0], ylim=limits[1])
    plane.legend(loc="upper right", fontsize=8.5)
    heading(plane, "Descent from the cliff (circle)")
    return figure


DEMONSTRATIONS = (Demonstration("loss_cliff", run, draw),)
