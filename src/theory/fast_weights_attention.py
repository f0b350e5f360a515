"""Fast weights as attention: three forms of one memory, its norm, its rank, and the place of its layer norm.

Shapes: B sequences, T time steps, X input features, H hidden units.
"""

from typing import Annotated, NamedTuple

import numpy as np
import torch
from annotated_types import Ge
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from src.models.fastweights import FastWeights, FastWeightsState
from src.theory.base import Claim, Demonstration
from src.theory.claims import at_least, at_most, near
from src.theory.figures import LIMIT, heading, line, wrapped

BA = "Ba et al. (2016), section 3"
REPORT = "Wayman & Mathew, final report, on fast weights"
OVERFLOW = 1e30
"""Bound at which states are clipped, a few steps before they would overflow."""
SAME = "relative to the largest; the terms are summed in a different order"


class Memory(NamedTuple):
    """The weights of past states, properties of the matrix A, and state sizes for two places of the layer norm."""

    claims: tuple[Claim, ...]
    hidden_size: int
    weights: np.ndarray
    """η λ^(t-1-τ) h_τᵀ h_0(t) in the first read of step t, for one sequence, [T, T]; NaN where τ ≥ t."""
    norms: np.ndarray
    norm_bounds: np.ndarray
    """The bound η max‖h‖² (1 - λ^t) / (1 - λ) on ‖A‖ for each t."""
    ranks: np.ndarray
    sizes: np.ndarray
    """Largest ‖h‖ in a batch at each step, with the layer norm around the whole sum."""
    printed_sizes: np.ndarray
    """The same with the layer norm applied before A h is added."""


def closed_sum(core: FastWeights, p_BTH: Tensor) -> Tensor:
    """The states, with A(t) = η Σ_τ λ^(t-τ) h_τ h_τᵀ computed anew at every step, [B, T, H]."""
    past: list[Tensor] = []
    h_BH = core.zeros(p_BTH.shape[0], core.hidden_size)
    for p_BH in p_BTH.unbind(1):
        terms = [
            core.fast_lr * core.decay ** (len(past) - 1 - index) * h[:, :, None] * h[:, None, :]
            for index, h in enumerate(past)
        ]
        A_BHH = torch.stack(terms).sum(0) if terms else core.zeros(p_BTH.shape[0], *2 * (core.hidden_size,))
        z_BH = core.recurrent(h_BH) + p_BH
        h_BH = torch.relu(z_BH)
        for _ in range(core.num_inner_steps):
            h_BH = torch.relu(core.norm(z_BH + torch.einsum("bij,bj->bi", A_BHH, h_BH)))
        past.append(h_BH)
    return torch.stack(past, dim=1)


def written(states_TH: Tensor, decay: float, fast_rate: float) -> Tensor:
    """The fast weights after each state, from the recursion A ← λ A + η h hᵀ, [T, H, H]."""
    A_HH = states_TH.new_zeros(states_TH.shape[1], states_TH.shape[1])
    all_A = []
    for h_H in states_TH:
        A_HH = decay * A_HH + fast_rate * torch.outer(h_H, h_H)
        all_A.append(A_HH)
    return torch.stack(all_A)


def first_queries(core: FastWeights, p_TH: Tensor, states_TH: Tensor) -> Tensor:
    """h_0 = f(W h + C x) of each step, the query of the first read from A, [T, H]."""
    before_TH = torch.cat([states_TH.new_zeros(1, core.hidden_size), states_TH[:-1]])
    return torch.relu(core.recurrent(before_TH) + p_TH)


def read_weights(core: FastWeights, states_TH: Tensor, queries_TH: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """h_τᵀ h_0(t), and the weights η λ^(t-1-τ) h_τᵀ h_0(t) of the states read at step t, [T, T]; NaN for τ ≥ t."""
    steps = np.arange(len(states_TH))
    lag_TT = steps[:, None] - steps
    inner_TT = np.where(lag_TT >= 1, (queries_TH @ states_TH.T).numpy(), np.nan)
    return inner_TT, core.fast_lr * core.decay ** np.maximum(lag_TT - 1, 0) * inner_TT


def state_sizes(core: FastWeights, p_BTH: Tensor, *, printed: bool) -> np.ndarray:
    """The largest ‖h‖ in a batch at each step, for h = f(LN[z + A h_0]) or, as printed, h = f(LN[z] + A h_0)."""
    state = core.initial_state(p_BTH.shape[0])
    sizes = []
    for p_BH in p_BTH.unbind(1):
        if printed:
            A_BHH = core.decay * state.A_BHH + core.fast_lr * state.h_BH[:, :, None] * state.h_BH[:, None, :]
            z_BH = core.recurrent(state.h_BH) + p_BH
            h_BH = torch.relu(core.norm(z_BH) + torch.einsum("bij,bj->bi", A_BHH, torch.relu(z_BH)))
            state = FastWeightsState(h_BH.clamp(max=OVERFLOW), A_BHH)
        else:
            _, state = core.step(p_BH, state)
        sizes.append(float(state.h_BH.norm(dim=1).max()))
    return np.array(sizes)


def run(num_steps: Annotated[int, Ge(3)] = 24, hidden_size: Annotated[int, Ge(2)] = 16, seed: int = 0) -> Memory:
    """Compute the states for random inputs in three ways, and examine the matrices that these states write."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        core = FastWeights(hidden_size, hidden_size=hidden_size, num_inner_steps=2, decay=0.9).double()
    p_BTH = torch.randn(4, num_steps, hidden_size, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        states_BTH = core.attend(p_BTH, None)[0]
        A_THH = written(states_BTH[0], core.decay, core.fast_lr)
        state_norms = states_BTH[0].norm(dim=1)
        queries_TH = first_queries(core, p_BTH[0], states_BTH[0])
    norms = torch.linalg.matrix_norm(A_THH, 2).numpy()
    ages = np.arange(1, num_steps + 1)
    bounds = core.fast_lr * float(state_norms.max()) ** 2 * (1 - core.decay**ages) / (1 - core.decay)
    ranks = torch.linalg.matrix_rank(A_THH).numpy()

    inner_TT, weights_TT = read_weights(core, states_BTH[0], queries_TH)

    with torch.no_grad():
        sizes, printed_sizes = (state_sizes(core, p_BTH, printed=printed) for printed in (False, True))
        largest = []
        for core.fast_lr in (0.05, 0.5, 5.0):
            largest.append(float(state_sizes(core, p_BTH, printed=False).max()))
    core.fast_lr = 0.5
    claims = (
        *_claims_of_equality(core, p_BTH),
        *_claims_of_the_matrix(core, A_THH, norms, bounds, ranks, states_BTH),
        *_claims_of_weights(weights_TT, inner_TT, states_BTH[0], queries_TH),
        *_claims_of_layer_norm(hidden_size, max(largest), printed_sizes),
    )
    return Memory(claims, hidden_size, weights_TT, norms, bounds, ranks, sizes, printed_sizes)


def _claims_of_equality(core: FastWeights, p_BTH: Tensor) -> tuple[Claim, ...]:
    """Claims that the three forms have equal values and gradients."""
    wanted = [*core.parameters()]
    direction_BTH = torch.cos(torch.arange(p_BTH.numel(), dtype=p_BTH.dtype)).view_as(p_BTH)

    def value_and_gradients(form) -> list[Tensor]:
        inputs = p_BTH.clone().requires_grad_()
        h_BTH = form(inputs)
        found = torch.autograd.grad((h_BTH * direction_BTH).sum(), [inputs, *wanted], allow_unused=True)
        return [h_BTH.detach(), *(g for g in found if g is not None)]  # the projection's parameters get no gradient

    def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
        return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))

    recursive = value_and_gradients(lambda p: core.scan(p)[0])
    attention = value_and_gradients(lambda p: core.attend(p, None)[0])
    summed = value_and_gradients(lambda p: closed_sum(core, p))
    claims = []
    for name, form in (("the closed sum", summed), ("attention over the past states", attention)):
        for what, part in (("states", slice(0, 1)), ("gradients of all inputs and parameters", slice(1, None))):
            difference = largest_difference(form[part], recursive[part])
            statement = f"The recursion A ← λA + η h hᵀ and {name} give equal {what}"
            claims.append(near(statement, f"{BA}, equation 4", 0.0, difference, 1e-12, SAME))
    return tuple(claims)


def _claims_of_the_matrix(
    core: FastWeights, A_THH: Tensor, norms: np.ndarray, bounds: np.ndarray, ranks: np.ndarray, states_BTH: Tensor
) -> tuple[Claim, ...]:
    """Claims about the expansion, norm, rank and initial value of the fast weights."""
    num_steps = len(norms)
    h_TH, decay, rate = states_BTH[0], core.decay, core.fast_lr
    coefficients = [rate * decay ** (num_steps - 1 - index) for index in range(num_steps)]
    expanded_HH = sum(c * torch.outer(h, h) for c, h in zip(coefficients, h_TH, strict=True))
    printed = list(coefficients)
    printed[-3] *= decay  # one λ too many on the term of h_{t-2}
    printed[0] *= decay / rate  # λ in place of η in the last term
    printed_HH = sum(c * torch.outer(h, h) for c, h in zip(printed, h_TH, strict=True))
    wrong = float(torch.linalg.matrix_norm(printed_HH - A_THH[-1]) / torch.linalg.matrix_norm(A_THH[-1]))
    same_HH = written(h_TH[-1:].expand(num_steps, -1), decay, rate)[-1]
    tight = rate * float(h_TH[-1] @ h_TH[-1]) * (1 - decay**num_steps) / (1 - decay)

    with torch.no_grad():
        p_BTH = torch.cos(torch.arange(3.0 * core.hidden_size, dtype=h_TH.dtype)).view(1, 3, -1)
        zero = FastWeightsState(core.zeros(1, core.hidden_size), core.zeros(1, core.hidden_size, core.hidden_size))
        fresh, _ = core.scan(p_BTH, zero)
        core.scan(1e3 * p_BTH)
        after, _ = core.scan(p_BTH)
    return (
        near(
            "Unrolled, A_t = η Σ_τ λ^(t-τ) h_τ h_τᵀ",
            f"{BA}, equation 1",
            0.0,
            float(torch.linalg.matrix_norm(expanded_HH - A_THH[-1]) / torch.linalg.matrix_norm(A_THH[-1])),
            1e-12,
            "relative; summed in a different order",
            refuted=f"{REPORT}: λ³ on the term of h_{{t-2}}, and λ for η in the last term (wrong by {wrong:.1%})",
        ),
        at_most(
            "‖A_t‖ ≤ η max‖h‖² (1 - λ^t)/(1 - λ) ≤ η max‖h‖²/(1 - λ) at every step",
            "triangle inequality, and ‖h hᵀ‖ = ‖h‖²",
            1.0,
            float((norms / bounds).max()),
            "largest ratio of the norm to the bound",
        ),
        near(
            "The bound is attained by a constant state",
            "the sum of a geometric series",
            1.0,
            float(torch.linalg.matrix_norm(same_HH, 2)) / tight,
            1e-12,
            "ratio; rounding in float64",
        ),
        at_most(
            "rank A_t ≤ t: each step adds one outer product",
            "subadditivity of the rank",
            0.0,
            float((ranks - np.arange(1, num_steps + 1)).max()),
            "largest excess of the rank over t",
        ),
        near(
            "Fast weights are a memory within a sequence: A = 0 at its start, regardless of earlier sequences",
            f"{BA}: A is set to zero at the beginning of every sequence",
            0.0,
            float((fresh - after).abs().max()),
            0.0,
            "exact: the same outputs after another sequence",
            refuted="fast weights store information about a sequence “to be used in the upcoming sequence” "
            "(report, section 1)",
        ),
    )


def _claims_of_weights(
    weights_TT: np.ndarray, inner_TT: np.ndarray, h_TH: Tensor, queries_TH: Tensor
) -> tuple[Claim, ...]:
    """Claims about the range of the weights with which past states are read."""
    unit_TT = (functional.normalize(queries_TH, dim=1) @ functional.normalize(h_TH, dim=1).T).numpy()
    largest_cosine = float(unit_TT[np.isfinite(inner_TT)].max())
    return (
        at_least(
            "With ReLU states no past state is read with a negative weight",
            "h_τᵀ h_s ≥ 0 if neither has a negative entry",
            0.0,
            float(np.nanmin(weights_TT)),
            "exact",
            refuted=f"{REPORT}: the weight ranges from -1 to 1",
        ),
        at_least(
            "Nor are the inner products h_τᵀ h_s bounded by 1: that requires states of unit length",
            "Cauchy-Schwarz: |h_τᵀ h_s| ≤ ‖h_τ‖ ‖h_s‖",
            1.0,
            float(np.nanmax(inner_TT)),
            f"largest of this run; with both of unit length it is {largest_cosine:.4f}",
            refuted=f"{REPORT}: the weight ranges from -1 to 1",
        ),
    )


def _claims_of_layer_norm(hidden_size: int, largest: float, printed_sizes: np.ndarray) -> tuple[Claim, ...]:
    """The claim about the layer norm around the whole sum, or before A h is added."""
    over = np.flatnonzero(printed_sizes > OVERFLOW)
    found = f"do not exceed {OVERFLOW:.0e} within {len(printed_sizes)} steps"
    if len(over):
        found = f"exceed {OVERFLOW:.0e} after {over[0] + 1} steps"
    return (
        at_most(
            "With the layer norm around the whole sum, f(LN[Wh + Cx + A h_s]), ‖h‖ ≤ √H at any fast learning rate",
            f"{BA}.1, equation 5: LN[a] has length √H at unit gain, and ReLU does not increase it",
            float(np.sqrt(hidden_size)),
            largest,
            "largest state at fast learning rates of 0.05, 0.5 and 5",
            refuted=f"{REPORT}: LN(b + Wh + Ux) + A h, whose states {found}",
        ),
    )


def draw(result: Memory) -> Figure:
    """The weight with which each past state is read, the size of the memory, and the size of the states."""
    figure, (attention, matrix, size) = wrapped(3)
    num_steps = len(result.norms)
    attention.grid(visible=False)
    extent = (0.5, num_steps + 0.5, num_steps + 0.5, 0.5)
    image = attention.imshow(result.weights, cmap="Greys", vmin=0, extent=extent)
    attention.set(xlabel=r"past state $\tau$", ylabel="time step t")
    figure.colorbar(image, ax=attention, label=r"weight $\eta\lambda^{t-1-\tau}\,h_\tau^\top h_0(t)$", shrink=0.85)
    heading(attention, "What is read of the past")

    times = np.arange(1, num_steps + 1)
    matrix.plot(times, result.norm_bounds, **LIMIT, label="its bound")
    matrix.plot(times, result.norms, **line(0), label="norm ‖A‖")
    matrix.plot(times, result.ranks, **line(2, marker=True), label="rank of A")
    matrix.plot(times, times, **line(3), label="t, the largest rank")
    matrix.set(xlabel="time step t", ylabel="norm, rank", ylim=(0, 1.6 * result.norm_bounds[-1]))
    matrix.legend(loc="upper left", fontsize=8.5)
    heading(matrix, "Norm and rank of the memory")

    shown = result.printed_sizes < OVERFLOW
    size.semilogy(times[shown], result.printed_sizes[shown], **line(2, marker=True), label="LN[z] + A h, as printed")
    size.semilogy(times, result.sizes, **line(0, marker=True), label="LN[z + A h]")
    size.axhline(np.sqrt(result.hidden_size), **LIMIT, label=r"$\sqrt{H}$")
    size.set(xlabel="time step t", ylabel="largest state ‖h‖")
    size.legend(loc="upper right", fontsize=8.5)
    heading(size, "Where the layer norm belongs")
    return figure


DEMONSTRATIONS = (Demonstration("fast_weights_attention", run, draw),)
