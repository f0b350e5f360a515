"""The linear associator: recall from a sum of outer products, and the keys for which it works.

Shapes: F features of a key, G features of a value, P stored pairs.
"""

from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge
from matplotlib.figure import Figure
from scipy.stats import ortho_group

from src.theory.base import Claim, Demonstration
from src.theory.claims import at_least, at_most, near
from src.theory.figures import THEORY, heading, line, new_figure, points

REPORT = "Wayman & Mathew, report, section 4.1"
ROUNDING = "rounding in float64"


class Recall(NamedTuple):
    """Recall by number of stored pairs, and the crosstalk of one memory."""

    claims: tuple[Claim, ...]
    key_size: int
    num_pairs: np.ndarray
    outer_product: np.ndarray
    """Cosine between recalled and stored value for the sum of outer products, averaged over pairs and draws."""
    pseudoinverse: np.ndarray
    """The same for the least-squares memory."""
    predicted_noise: np.ndarray
    """Predicted length of the crosstalk for each key of one memory, [P]."""
    measured_noise: np.ndarray
    """Its measured length."""


def outer_products(keys_FP: np.ndarray, values_GP: np.ndarray, rate: float = 1.0) -> np.ndarray:
    """The associator A = η Σ_k g_k f_kᵀ, [G, F]."""
    return rate * values_GP @ keys_FP.T


def crosstalk(keys_FP: np.ndarray, values_GP: np.ndarray) -> np.ndarray:
    """The contribution of the other pairs to the recall of pair j, Σ_{k≠j} g_k (f_kᵀ f_j), [G, P]."""
    overlaps_PP = keys_FP.T @ keys_FP
    np.fill_diagonal(overlaps_PP, 0)
    return values_GP @ overlaps_PP


def cosines(recalled_GP: np.ndarray, stored_GP: np.ndarray) -> np.ndarray:
    """The cosine of each recalled value with the stored one."""
    norms = np.linalg.norm(recalled_GP, axis=0) * np.linalg.norm(stored_GP, axis=0)
    return (recalled_GP * stored_GP).sum(0) / norms


def expected_cosine(num_pairs: np.ndarray, key_size: int) -> np.ndarray:
    r"""Expected cosine of a sum of outer products with Gaussian keys, 1 / √(1 + (P - 1) / n).

    A f_j = ‖f_j‖² g_j + crosstalk; the crosstalk is orthogonal to g_j on average, and its squared length is (P - 1) / n
    times the squared length of the first term, since (f_kᵀ f_j)² has mean ‖f_j‖² ‖f_k‖² / n.
    """
    return 1 / np.sqrt(1 + (num_pairs - 1) / key_size)


def expected_cosine_of_least_squares(num_pairs: np.ndarray, key_size: int) -> np.ndarray:
    r"""Expected cosine of least squares: 1 as long as the keys are linearly independent, √(n / P) beyond.

    G F⁺ F = G Π, where Π is the projection onto the n-dimensional row space of F. With Gaussian values the cosine is
    √Π_jj, and the mean of Π_jj is the trace of Π, which is n, divided by P.
    """
    return np.minimum(1, np.sqrt(key_size / num_pairs))


def run(
    key_size: Annotated[int, Ge(20)] = 200,
    value_size: int = 300,
    draws: int = 20,
    seed: int = 0,
    crosstalk_pairs: Annotated[int, Ge(2)] = 60,
) -> Recall:
    """Store pairs with orthonormal, orthogonal, random and linearly independent keys, and recall them."""
    rng = np.random.default_rng(seed)
    num_pairs = np.array([p * key_size // 20 for p in (1, 2, 5, 10, 15, 20, 30, 40)])
    outer = np.empty((draws, len(num_pairs)))
    least_squares = np.empty_like(outer)
    for draw, column in np.ndindex(outer.shape):
        keys_FP = rng.standard_normal((key_size, num_pairs[column]))
        values_GP = rng.standard_normal((value_size, num_pairs[column]))
        A_GF = outer_products(keys_FP, values_GP)
        outer[draw, column] = cosines(A_GF @ keys_FP, values_GP).mean()
        projected_GP = values_GP @ np.linalg.pinv(keys_FP) @ keys_FP
        least_squares[draw, column] = cosines(projected_GP, values_GP).mean()

    keys_FP = rng.standard_normal((key_size, crosstalk_pairs)) / np.sqrt(key_size)  # their lengths are close to 1
    values_GP = rng.standard_normal((value_size, crosstalk_pairs))
    predicted_GP = crosstalk(keys_FP, values_GP)
    measured_GP = outer_products(keys_FP, values_GP) @ keys_FP - values_GP * (keys_FP**2).sum(0)

    curves = outer.mean(0), least_squares.mean(0)
    claims = (
        *_claims_of_orthogonal_keys(key_size, value_size, rng),
        near(
            "With random keys, A f_j differs from ‖f_j‖² g_j by the crosstalk Σ_{k≠j} g_k (f_kᵀ f_j)",
            f"{REPORT}, the sum over k ≠ j",
            0.0,
            float(abs(measured_GP - predicted_GP).max() / abs(predicted_GP).max()),
            1e-12,
            f"{ROUNDING}, relative to the largest crosstalk",
        ),
        *_claims_of_load(num_pairs, key_size, *curves),
    )
    noise = np.linalg.norm(predicted_GP, axis=0), np.linalg.norm(measured_GP, axis=0)
    return Recall(claims, key_size, num_pairs, *curves, *noise)


def _claims_of_orthogonal_keys(key_size: int, value_size: int, rng: np.random.Generator) -> tuple[Claim, ...]:
    """Claims about a single pair, orthonormal keys, and orthogonal keys of different lengths."""
    rate = 0.7
    f_F, g_G = rng.standard_normal(key_size), rng.standard_normal(value_size)
    single_error = abs(outer_products(f_F[:, None], g_G[:, None], rate) @ f_F - rate * (f_F @ f_F) * g_G).max()
    orthonormal_FP = ortho_group.rvs(key_size, random_state=rng)
    lengths_P = rng.uniform(0.5, 2.0, key_size)
    values_GP = rng.standard_normal((value_size, key_size))
    exact_GP = outer_products(orthonormal_FP, values_GP) @ orthonormal_FP
    orthogonal_FP = orthonormal_FP * lengths_P
    # in print, A_i = g_i f_iᵀ is defined without η, but the recalled value is η g_j, without the length of the key
    recalled_GP = outer_products(orthogonal_FP, values_GP) @ orthogonal_FP
    printed_error = np.linalg.norm(recalled_GP - rate * values_GP) / np.linalg.norm(recalled_GP)
    return (
        near(
            "One stored pair is recalled as A f = η ‖f‖² g",
            REPORT,
            0.0,
            float(single_error / abs(g_G).max() / (f_F @ f_F)),
            1e-12,
            f"{ROUNDING}, relative to the value",
        ),
        near(
            "With as many orthonormal keys as features, every value is recalled exactly (η = 1)",
            REPORT,
            0.0,
            float(abs(exact_GP - values_GP).max()),
            1e-12,
            ROUNDING,
        ),
        near(
            "Orthogonal keys of any length recall ‖f_j‖² g_j if A = Σ g_k f_kᵀ",
            REPORT,
            0.0,
            float(abs(recalled_GP - lengths_P**2 * values_GP).max()),
            1e-12,
            ROUNDING,
            refuted=f"A f_j = η g_j: A_i has no η, and ‖f_j‖² is missing (with η = {rate} wrong by "
            f"{printed_error:.0%} of the recalled length)",
        ),
        near(
            "The example is hetero-associative: the recalled value has the direction of g, not of the key",
            "Haykin (2009), p. 38: autoassociative if keys and values are the same",
            1.0,
            float(cosines(exact_GP, values_GP).min()),
            1e-12,
            f"{ROUNDING}; here the value has {value_size} features and the key {key_size}",
            refuted="“the simple example of autoassociative memory”",
        ),
    )


def _claims_of_load(
    num_pairs: np.ndarray, key_size: int, outer: np.ndarray, least_squares: np.ndarray
) -> tuple[Claim, ...]:
    """Claims about recall as a function of the load."""
    relative = abs(outer / expected_cosine(num_pairs, key_size) - 1)
    independent = num_pairs <= key_size
    beyond = abs(least_squares / expected_cosine_of_least_squares(num_pairs, key_size) - 1)[~independent]
    return (
        near(
            "The cosine between recalled and stored value is 1/√(1 + (P-1)/n) at every load",
            "variance of the crosstalk of Gaussian keys (see `expected_cosine`)",
            0.0,
            float(relative.max()),
            0.02,
            "largest relative difference; the lengths of keys and values vary by a few percent",
        ),
        near(
            "The pseudoinverse A = G F⁺ recalls linearly independent keys exactly, up to P = n",
            "Kohonen & Ruohonen (1973); F⁺F = I where F has independent columns",
            1.0,
            float(least_squares[independent].min()),
            1e-9,
            "rounding times the condition number of a square Gaussian matrix",
        ),
        near(
            "Beyond P = n the cosine of least squares is √(n/P)",
            "mean of the diagonal of a random projection",
            0.0,
            float(beyond.max()),
            0.02,
            "largest relative difference, as above",
        ),
        at_least(
            "With random keys the sum of outer products is worse than least squares at every load",
            "least squares is the best linear map",
            0.0,
            float((least_squares - outer).min()),
            "the smallest gap between the two curves",
        ),
        at_most(
            "With as many random keys as features, what is recalled is as much crosstalk as value",
            "1/√2 of the formula above at P = n",
            0.72,
            float(outer[num_pairs == key_size][0]),
            "1/√2 plus 2 %",
        ),
    )


def draw(result: Recall) -> Figure:
    """Recall as a function of the load, and measured against predicted crosstalk."""
    figure, ((left, right),) = new_figure(1, 2, panel_height=3.3)
    n = result.key_size
    fine = np.linspace(1, result.num_pairs.max(), 400)
    left.plot(fine / n, expected_cosine(fine, n), **THEORY)
    left.plot(fine / n, expected_cosine_of_least_squares(fine, n), **THEORY)
    load = result.num_pairs / n
    possible = load[load <= 1]  # there cannot be more orthonormal keys than features
    hollow = points(2) | {"markersize": 9, "fillstyle": "none"}
    left.plot(possible, np.ones_like(possible), **hollow, label="orthonormal keys")
    left.plot(load, result.pseudoinverse, **points(1), label="random keys, pseudoinverse")
    left.plot(load, result.outer_product, **points(0), label="random keys, outer products")
    left.set(xlabel="load P/n (stored pairs per key feature)", ylabel="cosine of recalled and stored", ylim=(0.2, 1.05))
    left.legend(loc="lower left", fontsize=8.5, title="gray: theory", title_fontsize=8.5)
    heading(left, "Recall")

    longest = result.predicted_noise.max() * 1.05
    right.plot([0, longest], [0, longest], **line(1), label="equal")
    right.plot(result.predicted_noise, result.measured_noise, **points(0), label="one key of the memory")
    shortest = result.predicted_noise.min() * 0.95
    right.set(xlabel="predicted length of the crosstalk", ylabel="measured length of the crosstalk")
    right.set(xlim=(shortest, longest), ylim=(shortest, longest))
    right.legend(loc="upper left", fontsize=8.5)
    heading(right, f"Crosstalk of {len(result.predicted_noise)} random keys")
    return figure


DEMONSTRATIONS = (Demonstration("linear_associator", run, draw),)
