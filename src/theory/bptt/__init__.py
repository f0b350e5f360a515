"""Back-propagation through time: the report's derivation, corrected, and the effect of each error in print.

Shapes: T time steps, M hidden units, N input features, K classes.
"""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from matplotlib.figure import Figure

from src.models.base import Nonlinearity
from src.models.fastweights import FastWeights
from src.theory.base import Claim, Demonstration
from src.theory.bptt import jacobians, update_rules
from src.theory.bptt.jacobians import Array, Chain, Network, Pass, relative_error, unvec
from src.theory.bptt.printed_forms import FINAL, PRINTED_LOSSES, REPORT, slips
from src.theory.claims import at_least, near
from src.theory.figures import COLORS, LIMIT, heading, line, new_figure

FAST = "Ba et al. 2016, equations 1, 2 and 5, derived in the notation of Wayman & Mathew, report, section 6"
ROUNDING = "sums of products in float64, each rounded to 1e-16"


@dataclass
class Gradients:
    """How far the correct and the printed forms of the derivation are from automatic differentiation."""

    claims: list[Claim] = field(default_factory=list)
    right: dict[str, float] = field(default_factory=dict)
    """Relative error of the correct form, by name of the slip."""
    printed: dict[str, float] = field(default_factory=dict)
    """Relative error of the wrong form, by name of the slip."""
    shares: dict[str, Array] = field(default_factory=dict)
    """Norm of each step's contribution to the gradient for W, relative to the norm of the gradient, by network."""

    def agrees(self, statement: str, source: str, error: float, refuted: str = "") -> None:
        """Add the claim that a form equals the gradient."""
        statement = f"{statement}: relative error of the gradient"
        self.claims.append(near(statement, source, 0, error, 1e-10, ROUNDING, refuted))

    def refutes(
        self,
        name: str,
        statement: str,
        source: str,
        printed: str,
        errors: tuple[float, float],
        reading: bool = False,
    ) -> None:
        """Add the claim that the correct form equals the gradient and the printed one does not."""
        self.right[name], self.printed[name] = errors
        # not refuted if the printed form equals the gradient after all
        refuted = f"{printed}: relative error {errors[1]:.3g}" if errors[1] > 1e-6 else ""
        self.agrees(statement, source, errors[0], refuted)
        self.claims[-1] = self.claims[-1]._replace(reading=reading)


def compare_gradients(
    seed: int = 1, num_steps: Annotated[int, Ge(2)] = 7, num_units: Annotated[int, Ge(2)] = 5
) -> Gradients:
    """Compute the gradient of a loss at the last step of a random tanh network and of fast weights, in every form."""
    network = jacobians.random_network(seed, num_units)
    rng = np.random.default_rng([seed, 1])
    x_TN = rng.standard_normal((num_steps, network.U_MN.shape[1]))
    p = jacobians.run_forward(network, x_TN, np.eye(len(network.c_K))[1])
    result = Gradients()
    _standard_network(result, network, p)
    _start_of_the_sum(result, jacobians.random_network(seed, num_units, zero_start=True), p)
    _total_derivatives(result, network, p)
    _fast_weights(result, seed, num_steps, num_units)
    return result


def _standard_network(result: Gradients, network: Network, p: Pass) -> None:
    """Add claims about the chain rule, and about every printed form of one of its factors or of the loss."""
    exact, right = jacobians.autograd_gradient(network, p), jacobians.gradient(network, p)
    for name in ("W", "U", "b"):
        statement = f"δ_τ = δ_{{τ+1}} W diag(f'(a_τ)) and Kronecker products give the gradient for {name}"
        result.agrees(statement, f"{REPORT}, section 6, corrected", relative_error(right[name], exact[name]))
    error = relative_error(right["W"], exact["W"])
    for slip in slips(network):
        wrong_MM = jacobians.gradient(network, p, slip.chain)["W"]
        errors = error, relative_error(wrong_MM, exact["W"])
        result.refutes(slip.name, slip.right, slip.source, slip.printed, errors, slip.reading)
    for form in PRINTED_LOSSES:
        wrong_MM = jacobians.autograd_gradient(network, p, form.loss)["W"]
        errors = error, relative_error(wrong_MM, exact["W"])
        result.refutes(form.name, form.right, form.source, form.printed, errors)
    delta_TM = jacobians.deltas(network, p, Chain())
    result.shares["tanh RNN"] = _shares([np.outer(d_M, h_M) for d_M, h_M in zip(delta_TM, p.h_T1M[:-1], strict=True)])


def _start_of_the_sum(result: Gradients, network: Network, p: Pass) -> None:
    """Add the claims that with h_0 = 0 the first step drops out of the gradient for W, and only for W."""
    p = jacobians.run_forward(network, p.x_TN, p.y_K)
    exact, cut = jacobians.autograd_gradient(network, p), jacobians.gradient(network, p, Chain(first=1))
    result.agrees("With h_0 = 0 the sum for W may start at τ = 2", FINAL, relative_error(cut["W"], exact["W"]))
    result.claims.append(
        at_least(
            "The sums for U and b start at τ = 1 even with h_0 = 0: smaller of their relative errors from τ = 2",
            FINAL,
            1e-6,
            min(relative_error(cut[name], exact[name]) for name in "Ub"),
            f"one of {len(p.a_TM)} terms, multiplied by {len(p.a_TM) - 1} Jacobians, is still far above rounding",
        )
    )


def _total_derivatives(result: Gradients, network: Network, p: Pass) -> None:
    """Add claims about total derivatives forward through time, and about two ways of using the wrong derivative."""
    exact_MM = jacobians.autograd_gradient(network, p)["W"]
    delta_TM = jacobians.deltas(network, p, Chain())
    totals = jacobians.total_jacobians(network, p, Chain().sum_by_W)
    late = next(slip.chain.sum_by_W for slip in slips(network) if slip.name == "h(t) for h(t-1)")

    def error(vector) -> float:
        return relative_error(unvec(vector, exact_MM.shape), exact_MM)

    forward = error(delta_TM[-1] @ totals[-1])
    printed = error(delta_TM[-1] @ jacobians.total_jacobians(network, p, late)[-1])
    result.refutes(
        "h(t) in the forward recursion",
        "Forward through time, J_W a_t = h_{t-1}ᵀ ⊗ I + W J_W h_{t-1} with total derivatives on both sides",
        FINAL,
        "h_t is added in place of h_{t-1}ᵀ ⊗ I (read here as h_tᵀ ⊗ I, which has the right shape)",
        (forward, printed),
        reading=True,
    )
    backward = sum(d_M @ Chain().sum_by_W(p, t) for t, d_M in enumerate(delta_TM))
    twice = sum(d_M @ total for d_M, total in zip(delta_TM, totals, strict=True))
    result.refutes(
        "total ∂h(τ)/∂W in the sum",
        "In the sum over τ, ∂h(τ)/∂W is the immediate derivative, with h(τ-1) fixed",
        f"{REPORT}, section 5.3; Mathews, report, section 2.1.2",
        "the derivative is not said to be immediate; the total one counts the paths through earlier steps again",
        (error(backward), error(twice)),
        reading=True,
    )
    result.claims.append(
        at_least(
            "J_W a = hᵀ ⊗ I requires vec by columns: relative error of the gradient if the result is read by rows",
            'Magnus & Neudecker, p. 34; definition 6.1 of the report has "a_i its j-th column"',
            1e-2,
            relative_error(np.asarray(backward).reshape(exact_MM.shape), exact_MM),
            "the gradient is not a symmetric matrix",
        )
    )


def _fast_weights(result: Gradients, seed: int, num_steps: int, num_units: int) -> None:
    """Add claims about the derivation for fast weights with S = 1, and about what is lost if A is held constant."""
    rng = np.random.default_rng([seed, 2])
    p_TM, by_h_M = rng.standard_normal((num_steps, num_units)), rng.standard_normal(num_units)
    nonlinearities: tuple[Nonlinearity, ...] = ("tanh", "relu")
    for nonlinearity in nonlinearities:
        for layer_norm in (False, True):
            core = random_fast_weights(seed, num_units, nonlinearity, layer_norm)
            p = jacobians.run_fast_weights(core, p_TM)
            exact = jacobians.autograd_fast_weights(core, p_TM, by_h_M)
            found = jacobians.fast_weights_gradient(core, p, by_h_M)
            worst = max(relative_error(found[name], exact[name]) for name in exact)
            norm = "; W, inputs, gain, bias" if layer_norm else ", no layer norm; W, inputs"
            result.agrees(f"Kronecker products through fast weights ({nonlinearity}{norm}), largest", FAST, worst)
    for name, statement, partial in (
        ("A taken as constant", "The states that wrote A receive a gradient from its reads", (False, True)),
        ("η Ā h for η(Ā + Āᵀ) h", "From h hᵀ a state receives η (Ā + Āᵀ) h, with Ā the gradient for A", (True, False)),
    ):
        wrong_MM = jacobians.fast_weights_gradient(core, p, by_h_M, *partial)["W"]
        result.right[name], result.printed[name] = worst, relative_error(wrong_MM, exact["W"])
        statement = f"{statement}: relative error of the gradient otherwise"
        why = "a first-order term in η = 0.5 is missing"
        result.claims.append(at_least(statement, FAST, 1e-2, result.printed[name], why))
    terms = [np.outer(by_z_M, h_M) for by_z_M, h_M in zip(found["p"], p.h_T1M[:-1], strict=True)]
    result.shares["fast weights"] = _shares(terms)


def random_fast_weights(seed: int, num_units: int, nonlinearity: Nonlinearity, layer_norm: bool) -> FastWeights:
    """A core in float64 with Gaussian W, and with gains around 1 and biases around 0."""
    draw = np.random.default_rng([seed, 3]).standard_normal
    core = FastWeights(1, hidden_size=num_units, nonlinearity=nonlinearity, layer_norm=layer_norm).double()
    with torch.no_grad():
        core.recurrent.weight.copy_(torch.tensor(draw((num_units, num_units)) / np.sqrt(num_units)))
        if isinstance(core.norm, torch.nn.LayerNorm):
            core.norm.weight.copy_(torch.tensor(1 + 0.3 * draw(num_units)))
            core.norm.bias.copy_(torch.tensor(0.3 * draw(num_units)))
    return core


def _shares(terms: list[Array]) -> Array:
    return np.array([np.linalg.norm(term) for term in terms]) / np.linalg.norm(sum(terms))


def draw_gradients(result: Gradients) -> Figure:
    """The errors of all forms on a logarithmic axis, and the contribution of each time step."""
    figure, ((errors, steps),) = new_figure(1, 2, panel_width=4.9, panel_height=4.4, width_ratios=(1.8, 1))
    names = sorted(result.printed, key=result.printed.__getitem__)
    rows = np.arange(len(names))
    right, printed = ([values[name] for name in names] for values in (result.right, result.printed))
    errors.hlines(rows, right, printed, "0.8")
    errors.plot(right, rows, "o", color=COLORS[0], label="corrected")
    errors.plot(printed, rows, "X", color=COLORS[2], markersize=8, label="wrong form")
    errors.axvline(1e-10, **LIMIT)
    errors.text(1e-10, len(rows) + 0.3, "tolerance ", ha="right", va="center")
    errors.set(xscale="log", yticks=rows, yticklabels=names, ylim=(-0.8, len(rows) + 1.1))
    errors.set_xlabel("relative error of the gradient for W, against autograd")
    errors.grid(axis="y", visible=False)
    errors.legend(loc="upper right", ncols=2, frameon=False, columnspacing=1, handletextpad=0.1)
    heading(errors, "one wrong factor, a wrong gradient")
    for index, (name, share_T) in enumerate(result.shares.items()):
        steps.plot(range(1, len(share_T) + 1), share_T, label=name, **line(index, marker=True))
    steps.set(xlabel="time step τ", ylabel="‖contribution of step τ‖ / ‖gradient for W‖", ylim=(0, None))
    steps.legend(frameon=False)
    heading(steps, "the last step is not the sum")
    return figure


DEMONSTRATIONS = (
    Demonstration("gradients_as_printed", compare_gradients, draw_gradients),
    Demonstration("update_rules_as_printed", update_rules.compare_update_rules, update_rules.draw_update_rules),
)
