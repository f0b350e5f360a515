"""What bounds a product of Jacobians and what does not: powers of a matrix, and the conditions of Pascanu et al.

Shapes: M hidden units, K powers from 0, T time steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import scipy.linalg
from annotated_types import Ge, Gt
from matplotlib.figure import Figure
from scipy.special import expit

from src.theory.base import Claim
from src.theory.claims import at_most, near
from src.theory.figures import LIMIT, heading, line, new_figure, wrapped
from src.theory.gradient_flow.norms import Array

REPORT, MATHEWS = "Wayman & Mathew, report", "Mathews, report, section 2.1.2"
PASCANU = "Pascanu, Mikolov & Bengio 2013, section 2.1"
RADII = (0.5, 0.9, 1.0, 1.1)


@dataclass
class Powers:
    """‖W^k‖ as a function of k."""

    claims: list[Claim]
    gaussian: dict[float, Array]
    """Norms for a Gaussian matrix, by spectral radius, [K]."""
    non_normal: Array
    radius: float
    """Spectral radius of the non-normal matrix, which is its diagonal."""
    coupling: float
    """The corner of the non-normal matrix."""
    slowing: Array
    """Π (1 - 1/j²), [K]."""
    geometric: Array


def compare_powers(
    num_units: int = 50, num_powers: Annotated[int, Ge(2)] = 300, seed: int = 0, coupling: Annotated[float, Gt(0)] = 2.0
) -> Powers:
    """Compare Gaussian matrices of four spectral radii, a non-normal one, and factors < 1 with a product above 0."""
    W_MM = np.random.default_rng(seed).standard_normal((num_units, num_units))
    W_MM /= np.abs(np.linalg.eigvals(W_MM)).max()
    powers = power_norms(W_MM, num_powers)
    k = np.arange(num_powers + 1)
    gaussian = {radius: radius**k * powers for radius in RADII}
    half = num_powers // 2
    rates = {radius: float(np.log(v[-1] / v[half]) / (num_powers - half)) for radius, v in gaussian.items()}

    radius = 0.9
    jordan = power_norms(np.array([[radius, coupling], [0.0, radius]]), num_powers)
    corner = coupling * k * radius ** (k - 1.0)
    peak = -1 / np.log(radius)
    j = np.arange(2, num_powers + 1)
    slowing = np.concatenate([np.ones(2), np.cumprod(1 - 1.0 / j**2)])
    limit = (num_powers + 1) / (2 * num_powers)
    fastest = float((1 - 1.0 / j**2).max())
    claims = [
        *(
            near(
                f"Spectral radius {radius} (Gaussian W): ln ‖W^k‖ grows by ln {radius} per step in the long run",
                f"{MATHEWS}, with f the identity; Gelfand's formula",
                np.log(radius),
                rate,
                0.005,
                "with a complex leading pair ‖W^k‖ ρ^-k oscillates within a constant factor; divided by "
                f"{num_powers - half} steps",
            )
            for radius, rate in rates.items()
        ),
        near(
            "Spectral radius 0.9, not normal: ‖W^k‖ first grows and peaks at k = -1/ln ρ",
            "Closed form for [[ρ, c], [0, ρ]], whose corner is c k ρ^(k-1)",
            peak,
            float(np.argmax(jordan[: num_powers // 2])),
            1.0,
            "k is an integer, and the diagonal ρ^k moves the peak by less than 1",
            'Mathews, section 2.1.2: "if the largest eigenvalue is small, then the gradient will vanish", read as '
            "applying from the first step on",
        )._replace(reading=True),
        near(
            "The height of that peak is c k ρ^(k-1)",
            "The corner at its peak",
            float(corner.max()),
            float(jordan.max()),
            0.01 * float(corner.max()),
            "1 %: the diagonal ρ^k adds to the corner, at right angles",
        ),
        near(
            f"Factors of norm 1 - 1/k², each below 1, have a product of (n + 1)/2n, here n = {num_powers}",
            f"Telescoping product; {REPORT}, section 5.3",
            limit,
            slowing[-1],
            1e-10,
            f"{num_powers} products in float64",
            '"If the norm of each of the factors on the right hand side of this equation is less than 1", it '
            f"converges to zero (largest factor here {fastest:.6f})",
        ),
        near(
            "If every factor has norm γ = 0.9, the product falls at the constant rate ln γ",
            f"{REPORT}, section 5.3, corrected",
            np.log(0.9),
            float(np.diff(np.log(power_norms(0.9 * scipy.linalg.hadamard(4) / 2, 100))).mean()),
            1e-10,
            "closed form in float64",
            '"converges to zero at an exponentially increasing rate"',
        ),
        _unrolled(seed),
    ]
    return Powers(claims, gaussian, jordan, radius, coupling, slowing, np.power(0.9, k))


def power_norms(W_MM: Array, num_powers: int) -> Array:
    """Spectral norms of W^0 ... W^num_powers, [K]."""
    power_MM, norms = np.eye(len(W_MM)), []
    for _ in range(num_powers + 1):
        norms.append(float(np.linalg.norm(power_MM, 2)))
        power_MM = W_MM @ power_MM
    return np.array(norms)


def _unrolled(seed: int, num_units: int = 5) -> Claim:
    """The claim about h_t as T = 3 nested steps from h_{t-T}.

    As in section 3 of the report, W is the matrix of the input and U that of the state.
    """
    draw = np.random.default_rng([seed, 1]).standard_normal
    W_MM, U_MM = draw((2, num_units, num_units)) / np.sqrt(num_units)
    b_M, start_M, x_before_M, *x_TM = draw((6, num_units))

    def step(x_M: Array, h_M: Array) -> Array:
        return np.tanh(W_MM @ x_M + U_MM @ h_M + b_M)

    recurrence_M = start_M
    for x_M in x_TM:
        recurrence_M = step(x_M, recurrence_M)
    nested_M, printed_M = (step(x_TM[2], step(x_TM[1], step(x_M, start_M))) for x_M in (x_TM[0], x_before_M))
    return near(
        "After T nestings the innermost argument is W x_{t-T+1} + U h_{t-T} + b: distance to the recurrence",
        f"{REPORT}, section 3",
        0,
        float(np.abs(nested_M - recurrence_M).max()),
        1e-12,
        "the same operations in float64",
        f"W x_{{t-T}} + U h_{{t-T}}: h_t is off by up to {np.abs(printed_M - recurrence_M).max():.2f}",
    )


def draw_powers(result: Powers) -> Figure:
    """Growth rates by spectral radius, the hump of a non-normal matrix, and a product that does not vanish."""
    figure, (radii, hump, product) = wrapped(3)
    for index, (radius, norm_K) in enumerate(result.gaussian.items()):
        radii.plot(norm_K[:101], label=f"ρ = {radius}", markevery=(4 * index, 20), **line(index, marker=True))
    radii.set(yscale="log", ylim=(1e-8, 1e8), xlabel="k", ylabel=r"$\|W^k\|$, Gaussian $W$")
    radii.legend(frameon=False, ncols=2, loc="upper left")
    heading(radii, "the spectral radius is the rate ...")
    k = np.arange(len(result.non_normal))[:81]
    hump.plot(k, result.non_normal[:81], label=f"(0.9 {result.coupling:g}; 0 0.9), not normal", **line(2))
    hump.plot(k, result.radius**k, label="(0.9 0; 0 0.9), normal", **line(0) | {"linestyle": "--"})
    hump.axhline(1, **LIMIT)
    hump.set(yscale="log", xlabel="k", ylabel=r"$\|W^k\|$, both with $\rho = 0.9$", ylim=(1e-4, 1e3))
    hump.legend(frameon=False, loc="upper right")
    heading(hump, "... but not the transient")
    n = np.arange(len(result.slowing))[1:61]
    product.plot(n, result.slowing[n], label="norms $1 - 1/k^2$", **line(1))
    product.plot(n, result.geometric[n], label="norms 0.9", **line(0) | {"linestyle": "--"})
    product.axhline(0.5, **LIMIT)
    product.set(ylim=(0, 1), xlabel="number of factors", ylabel="product of norms, all below 1")
    product.legend(frameon=False)
    heading(product, "below 1 is not enough")
    return figure


@dataclass
class Conditions:
    """Norms of products of Jacobians by lag, with a largest singular value of W below or above 1/γ."""

    claims: list[Claim]
    panels: dict[str, dict[str, Array]]
    bounds: dict[str, Array]


def product_norms(W_MM: Array, derivative_TM: Array) -> Array:
    """‖Π diag(f'(a_τ)) W‖ over the last l steps, for l = 0 ... T, [T + 1]."""
    product_MM = np.eye(len(W_MM))
    norms = [1.0]
    for derivative_M in derivative_TM[::-1]:
        product_MM = product_MM @ (derivative_M[:, None] * W_MM)
        norms.append(float(np.linalg.norm(product_MM, 2)))
    return np.array(norms)


def compare_conditions(num_units: int = 20, num_steps: int = 40, seed: int = 0) -> Conditions:
    """Check that σ_max(W) < 1/γ is sufficient for vanishing and σ_max(W) > 1/γ only necessary for exploding.

    Here γ = sup |f'|.
    """
    rng = np.random.default_rng(seed)
    Q_MM = scipy.linalg.qr(rng.standard_normal((num_units, num_units)))[0]
    x_TM = rng.standard_normal((num_steps, num_units))
    panels: dict[str, dict[str, Array]] = {}
    bounds, claims = {}, []
    cases: tuple[tuple[str, Callable, Callable, float, float], ...] = (
        ("tanh", np.tanh, lambda h: 1 - h**2, 1.0, 0.0),
        ("sigmoid", expit, lambda h: h * (1 - h), 0.25, 0.5),
    )
    for name, f, derivative_at, gamma, middle in cases:
        small, large = 0.9 / gamma, 1.5 / gamma

        # the bias makes the steepest point of f a fixed point of the network
        def run(scale: float, strength: float, f=f, derivative_at=derivative_at, middle=middle) -> Array:
            W_MM = scale * Q_MM
            h_M, derivatives = np.full(num_units, middle), []
            for x_M in x_TM:
                h_M = f(W_MM @ (h_M - middle) + strength * x_M)
                derivatives.append(derivative_at(h_M))
            return product_norms(W_MM, np.array(derivatives))

        quiet_large, loud_large = run(large, 0.0), run(large, 6.0 / gamma)
        worst_small = np.array([run(small, strength) for strength in (0.0, 1.0, 6.0 / gamma)])
        bounds[name] = (gamma * small) ** np.arange(num_steps + 1.0)
        panels[name] = {
            f"σ = {small:g}, no input": worst_small[0],
            f"σ = {large:g}, no input": quiet_large,
            f"σ = {large:g}, strong input": loud_large,
        }
        claims += [
            at_most(
                f"{name}: σ_max(W) = {small:g} < 1/γ = {1 / gamma:g} suffices for vanishing: largest ratio to "
                "(γ σ_max)^lag with no, weak and strong input",
                f"{PASCANU}; {MATHEWS}",
                1 + 1e-9,
                float((worst_small / bounds[name])[:, 1:].max()),
                "1, and rounding; from lag 1 on",
            ),
            near(
                f"{name}: σ_max(W) = {large:g} can explode: growth per step at the steepest point of f",
                f"{PASCANU}; W orthogonal times σ_max, so every factor is γ W",
                gamma * large,
                float(quiet_large[-1] ** (1 / num_steps)),
                1e-10,
                "products of orthogonal matrices in float64",
            ),
            at_most(
                f"{name}: σ_max(W) = {large:g} need not explode, nor is σ_max < 1/γ necessary for vanishing: what "
                f"remains after {num_steps} steps of strong input",
                f"{PASCANU}; {MATHEWS}",
                1e-3,
                float(loud_large[-1]),
                "units are saturated most of the time, and f' is near 0 there",
                '"necessary conditions for vanishing": σ_max < 1/γ is sufficient for vanishing, and its converse '
                "necessary for exploding",
            ),
        ]
    return Conditions(claims, panels, bounds)


def draw_conditions(result: Conditions) -> Figure:
    """Gradients that always vanish below the bound, and sometimes explode above it."""
    figure, (all_axes,) = new_figure(1, 2, panel_width=4, sharey=True)
    for axes, (name, panel) in zip(all_axes, result.panels.items(), strict=True):
        bound_L = result.bounds[name]
        axes.plot(
            bound_L,
            label=r"bound $(\gamma\sigma)^\mathrm{lag}$ for $\gamma\sigma = 0.9$",
            color="0.6",
            linewidth=5,
            alpha=0.5,
        )
        for index, (label, norm_L) in enumerate(panel.items()):
            axes.plot(norm_L, label=label, markevery=(2 * index, 8), **line(index, marker=True))
        axes.axhline(1, **LIMIT)
        axes.set(yscale="log", ylim=(1e-13, 1e14), xlabel="lag")
        axes.legend(frameon=False, loc="upper left", fontsize=9)
        heading(axes, f"{name}, 1/γ = {'1' if name == 'tanh' else '4'}")
    all_axes[0].set_ylabel("‖product of Jacobians‖")
    return figure
