"""What a matrix memory holds before anything is trained: sums of outer products, decay, the delta rule, least squares.

Shapes: R memories, N pairs, K features of a key, V features of a value, C values to choose from.
"""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge
from matplotlib.figure import Figure
from scipy.stats import norm

from src.theory.base import Claim, Demonstration
from src.theory.claims import at_least, at_most, near
from src.theory.figures import THEORY, heading, line, wrapped

SCHLAG = "Schlag, Irie & Schmidhuber (2021), section 4.1"
COMPUTED = "computed before, with other random numbers"
NUM_VALUES = 64
BOUND = 0.9
"""The least accuracy at which the pairs count as stored."""

Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps keys [R, N, K] and values [R, N, V], in the order of writing, to the memory S [R, K, V], read as Sᵀ k."""


class WriteRules(NamedTuple):
    """Accuracies and capacities of every rule."""

    claims: tuple[Claim, ...]
    loads: np.ndarray
    """Numbers of pairs."""
    accuracies: dict[str, np.ndarray]
    """Accuracy at each load, with keys drawn from the sphere."""
    predicted: dict[str, np.ndarray]
    """The same, predicted, for the rules with a closed form."""
    key_sizes: tuple[int, ...]
    capacities: dict[str, np.ndarray]
    """The number of pairs at which the accuracy falls below 90 %, for each key size."""
    updated: dict[str, tuple[float, float]]
    """Accuracy on keys that kept their value, and on keys that got a new one."""


def hebb(keys_RNK: np.ndarray, values_RNV: np.ndarray, decay: float = 1.0) -> np.ndarray:
    """S_t = λ S_{t-1} + k_t v_tᵀ, in closed form."""
    weights_N = decay ** np.arange(keys_RNK.shape[1] - 1, -1, -1)
    return np.swapaxes(keys_RNK * weights_N[:, None], 1, 2) @ values_RNV


def delta(keys_RNK: np.ndarray, values_RNV: np.ndarray, beta: float = 1.0, num_passes: int = 1) -> np.ndarray:
    """S_t = S_{t-1} + β k_t (v_t - S_{t-1}ᵀ k_t)ᵀ, applied to all pairs in turn, `num_passes` times."""
    S_RKV = np.zeros((len(keys_RNK), keys_RNK.shape[2], values_RNV.shape[2]))
    for n in [*range(keys_RNK.shape[1])] * num_passes:
        k_RK, v_RV = keys_RNK[:, n], values_RNV[:, n]
        recalled_RV = np.einsum("rkv,rk->rv", S_RKV, k_RK)
        S_RKV += beta * k_RK[:, :, None] * (v_RV - recalled_RV)[:, None]
    return S_RKV


def least_squares(keys_RNK: np.ndarray, values_RNV: np.ndarray) -> np.ndarray:
    """The S of least norm that minimizes Σ ‖v - Sᵀ k‖²: on these pairs, no other linear memory does better."""
    return np.linalg.pinv(keys_RNK) @ values_RNV


RULES: dict[str, Rule] = {
    "sum": hebb,
    "sum, λ = 0.9": lambda keys, values: hebb(keys, values, 0.9),
    "delta rule": delta,
    "delta rule, β = 0.5": lambda keys, values: delta(keys, values, 0.5),
    "delta rule, two passes": lambda keys, values: delta(keys, values, 1.0, 2),
    "least squares": least_squares,
}


def unit_vectors(shape: tuple[int, ...], rng: np.random.Generator, positive: bool = False) -> np.ndarray:
    """Random vectors of length 1: normalized Gaussian vectors, after a ReLU if `positive`, which may leave only 0."""
    x = rng.standard_normal(shape)
    x = np.maximum(x, 0) if positive else x
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), np.finfo(float).tiny)


def recalled(S_RKV: np.ndarray, keys_RNK: np.ndarray, choices_RCV: np.ndarray) -> np.ndarray:
    """The index of the value that best matches what is read with each key, [R, N]."""
    return np.argmax(keys_RNK @ S_RKV @ np.swapaxes(choices_RCV, 1, 2), axis=2)


def accuracy(
    rule: Rule, num_pairs: int, size: int, draws: int, rng: np.random.Generator, positive: bool = False
) -> float:
    """The share of pairs that are recalled, over `draws` memories; keys and values have `size` features."""
    keys_RNK = unit_vectors((draws, num_pairs, size), rng, positive)
    choices_RCV = unit_vectors((draws, NUM_VALUES, size), rng)
    labels_RN = rng.integers(NUM_VALUES, size=(draws, num_pairs))
    values_RNV = np.take_along_axis(choices_RCV, labels_RN[..., None], axis=1)
    return float((recalled(rule(keys_RNK, values_RNV), keys_RNK, choices_RCV) == labels_RN).mean())


def predicted_accuracy(num_pairs: int, size: int, decay: float = 1.0) -> float:
    r"""Expected accuracy of a sum of outer products with Gaussian crosstalk.

    The pair of age a is read as λ^a (v + n). In the crosstalk n = Σ_{j≠a} λ^(j-a) (k_jᵀ k) v_j, the overlaps k_jᵀ k of
    the keys are N(0, 1/K), and each v_j equals a given value with probability 1/C. So the component of n along any
    value has the variance s² = Σ_{j≠a} λ^(2(j-a)) / K · (1/C + (1 - 1/C)/V). The score of the right value is
    u = 1 + s z, with z from N(0, 1). The score of another value, whose component along v is N(0, 1/V), is
    N(0, u²/V + s² (1 - 1/V)), and u has to exceed C - 1 such scores.
    """
    powers_N = decay ** (2.0 * np.arange(num_pairs))
    variance_N1 = ((powers_N.sum() / powers_N - 1) / size * (1 / NUM_VALUES + (1 - 1 / NUM_VALUES) / size))[:, None]
    z = np.linspace(-8, 8, 801)
    u = 1 + np.sqrt(variance_N1) * z
    others = np.sqrt(u**2 / size + variance_N1 * (1 - 1 / size) + 1e-12)
    wins_N = (norm.pdf(z) * norm.cdf(u / others) ** (NUM_VALUES - 1)).sum(1) * (z[1] - z[0])
    return float(wins_N.mean())


def capacity(rule: Rule, size: int, draws: int, rng: np.random.Generator) -> float:
    """The number of pairs at which the accuracy falls below 90 %, interpolated between the closest numbers tried."""
    low, high, at_low = 1, 2, 1.0
    while (at_high := accuracy(rule, high, size, draws, rng)) >= BOUND:
        low, high, at_low = high, 2 * high, at_high
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        at_middle = accuracy(rule, middle, size, draws, rng)
        if at_middle >= BOUND:
            low, at_low = middle, at_middle
        else:
            high, at_high = middle, at_middle
    return low + (high - low) * (at_low - BOUND) / max(at_low - at_high, 1e-9)


def after_updates(
    rule: Rule, num_pairs: int, num_updates: int, size: int, draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Accuracy on the first keys, which keep their value, and on the last ones, which are rewritten with a new one."""
    keys_RNK = unit_vectors((draws, num_pairs, size), rng)
    choices_RCV = unit_vectors((draws, NUM_VALUES, size), rng)
    old_RN = rng.integers(NUM_VALUES, size=(draws, num_pairs))
    new_RU = (old_RN[:, -num_updates:] + rng.integers(1, NUM_VALUES, size=(draws, num_updates))) % NUM_VALUES
    written_RW = np.concatenate([old_RN, new_RU], axis=1)
    order_W = [*range(num_pairs), *range(num_pairs - num_updates, num_pairs)]
    S_RKV = rule(keys_RNK[:, order_W], np.take_along_axis(choices_RCV, written_RW[..., None], axis=1))
    answers_RN = recalled(S_RKV, keys_RNK, choices_RCV)
    last_RN = np.concatenate([old_RN[:, : num_pairs - num_updates], new_RU], axis=1)
    right_RN = answers_RN == last_RN
    return float(right_RN[:, :-num_updates].mean()), float(right_RN[:, -num_updates:].mean())


def run(
    size: Annotated[int, Ge(4)] = 32, draws: int = 200, key_sizes: tuple[int, ...] = (16, 32, 64), seed: int = 0
) -> WriteRules:
    """Measure accuracy by number of pairs, capacity by size, and recall after half of 8 keys got a new value."""
    rng = np.random.default_rng(seed)
    loads = np.array([size // 4, size // 2, size, 2 * size, 4 * size])
    accuracies = {
        name: np.array([accuracy(rule, int(load), size, draws, rng) for load in loads]) for name, rule in RULES.items()
    }
    positive = {
        name: np.array([accuracy(RULES[name], int(load), size, draws, rng, True) for load in loads[1:]])
        for name in ("sum", "delta rule", "least squares")
    }
    predicted = {
        name: np.array([predicted_accuracy(int(load), size, decay) for load in loads])
        for name, decay in (("sum", 1.0), ("sum, λ = 0.9", 0.9))
    }
    compared = ("sum", "delta rule", "least squares")
    capacities = {
        name: np.array([capacity(RULES[name], of_size, max(draws // 5, 10), rng) for of_size in key_sizes])
        for name in compared
    }
    updated = {
        name: after_updates(RULES[name], 8, 4, size, draws, rng) for name in ("sum", "sum, λ = 0.9", "delta rule")
    }
    claims = (
        *_claims_of_sums(loads, accuracies, predicted),
        *_claims_of_rules(size, accuracies, positive),
        *_claims_of_capacity(key_sizes, capacities),
        *_claims_of_updates(updated),
    )
    return WriteRules(claims, loads, accuracies, predicted, key_sizes, capacities, updated)


def _claims_of_sums(
    loads: np.ndarray, accuracies: dict[str, np.ndarray], predicted: dict[str, np.ndarray]
) -> tuple[Claim, ...]:
    """Claims about the agreement of closed form and simulation."""
    return tuple(
        near(
            f"{name}: the accuracy is that of Gaussian crosstalk, up to as many pairs as features, {loads[2]}",
            "`predicted_accuracy`",
            0.0,
            float(abs(accuracies[name] - predicted[name])[:3].max()),
            0.03,
            "largest difference; with more pairs, the scores of the other values not being independent, it is up to "
            f"{abs(accuracies[name] - predicted[name])[3:].max():.3f}",
        )
        for name in predicted
    )


def _claims_of_rules(
    size: int, accuracies: dict[str, np.ndarray], positive: dict[str, np.ndarray]
) -> tuple[Claim, ...]:
    """Claims that compare the rules, with fresh keys."""
    full = 2  # as many pairs as features
    lead = accuracies["sum"] - accuracies["delta rule"]
    return (
        at_least(
            f"With {size} fresh random keys of {size} features the sum of outer products recalls more than the delta "
            "rule with β = 1: each of its writes erases a part of the earlier ones",
            COMPUTED,
            0.1,
            float(lead[full]),
            "difference of accuracies; .965 and .793 at 32 pairs",
        ),
        at_least(
            "A weaker write, β = 0.5, is better than β = 1 here",
            COMPUTED,
            0.05,
            float(accuracies["delta rule, β = 0.5"][full] - accuracies["delta rule"][full]),
            "difference of accuracies; .918 and .793 at 32 pairs",
        ),
        at_least(
            "Least squares recalls all pairs as long as there are no more than features",
            "keys are linearly independent, almost surely",
            1.0,
            float(accuracies["least squares"][: full + 1].min()),
            "exact",
        ),
        at_most(
            f"A decay of λ = 0.9 leaves less than 60 % of {size} pairs",
            COMPUTED,
            0.6,
            float(accuracies["sum, λ = 0.9"][full]),
            ".480 at 32 pairs",
        ),
        at_most(
            "Keys without negative entries, like states after a ReLU, overlap: a sum of outer products recalls less "
            "than half of as many pairs as features",
            COMPUTED,
            0.5,
            float(positive["sum"][full - 1]),
            ".36 at 32 pairs, .965 with keys of both signs",
        ),
        at_least(
            "With such keys the order is reversed: the delta rule recalls more than the sum",
            COMPUTED,
            0.1,
            float(positive["delta rule"][full - 1] - positive["sum"][full - 1]),
            "difference of accuracies; .55 and .36 at 32 pairs",
        ),
    )


def _claims_of_capacity(key_sizes: tuple[int, ...], capacities: dict[str, np.ndarray]) -> tuple[Claim, ...]:
    """Claims about the capacity and its growth with the number of features."""
    last = len(key_sizes) - 1
    growth = np.divide(key_sizes[1:], key_sizes[:-1])
    printed = {"sum": {16: 12, 32: 44, 64: 138}, "delta rule": {16: 7, 32: 22, 64: 54}}
    printed["least squares"] = {16: 27, 32: 78, 64: 198}
    return (
        *(
            near(
                f"{name}: pairs with 90 % accuracy, for {key_sizes[last]} features",
                COMPUTED,
                float(known[key_sizes[last]]),
                float(capacities[name][last]),
                0.15 * known[key_sizes[last]],
                "15 %; the earlier numbers are the largest of a coarse grid",
            )
            for name, known in printed.items()
            if key_sizes[last] in known
        ),
        at_least(
            "Capacity grows faster than the number of features, since longer values are also easier to tell apart",
            f"{SCHLAG}: of exact recall, in proportion to the features",
            1.0,
            float(min((row[1:] / row[:-1] / growth).min() for row in capacities.values())),
            "smallest ratio of growth of capacity to growth of size",
        ),
    )


def _claims_of_updates(updated: dict[str, tuple[float, float]]) -> tuple[Claim, ...]:
    """Claims about recall after half of 8 keys were written again."""
    return (
        near(
            "After an update a sum of outer products has both values, and the new one wins half of the time",
            SCHLAG,
            0.5,
            updated["sum"][1],
            0.1,
            ".53 where all of 8 keys are updated",
        ),
        at_least(
            "The delta rule returns the new value of an updated key, and the old one of the others",
            SCHLAG,
            0.95,
            min(updated["delta rule"]),
            "the lesser of the two accuracies",
        ),
        at_least(
            "Decay returns new values too",
            COMPUTED,
            0.9,
            updated["sum, λ = 0.9"][1],
            "accuracy on the updated keys",
        ),
        at_most(
            "But decay loses more of what was not updated",
            COMPUTED,
            -0.01,
            updated["sum, λ = 0.9"][0] - updated["delta rule"][0],
            "difference to the delta rule on the keys that kept their value, which are the oldest",
        ),
    )


def draw(result: WriteRules) -> Figure:
    """Accuracy by load, capacity by size, and accuracy after updates."""
    figure, (load, size, update) = wrapped(3, panel_height=3.4)
    for curve in result.predicted.values():
        load.plot(result.loads, curve, **THEORY)
    for index, (name, curve) in enumerate(result.accuracies.items()):
        load.plot(result.loads, curve, **line(index, marker=True), label=name)
    load.set_xscale("log", base=2)
    load.set_xticks(result.loads, [str(number) for number in result.loads])
    load.set(xlabel="pairs", ylabel="accuracy", ylim=(0, 1.03))
    load.legend(loc="lower left", fontsize=7.5)
    heading(load, "Fresh keys (gray: closed form)")

    names = list(result.accuracies)
    for name, row in result.capacities.items():
        size.loglog(result.key_sizes, row, **line(names.index(name), marker=True), label=name, base=2)
    size.set_xticks(result.key_sizes, [str(number) for number in result.key_sizes])
    size.set_yticks([8, 16, 32, 64, 128, 256], ["8", "16", "32", "64", "128", "256"])
    size.set(xlabel="features of keys and values", ylabel="pairs with 90 % accuracy")
    size.legend(loc="upper left", fontsize=8)
    heading(size, "Capacity")

    places = np.arange(len(result.updated))
    for offset, label, color in ((-0.2, "kept", "0.75"), (0.2, "updated", "0.35")):
        heights = [pair[offset > 0] for pair in result.updated.values()]
        update.bar(places + offset, heights, 0.38, color=color, label=label)
    update.set_xticks(places, [name.replace(", ", "\n") for name in result.updated], fontsize=8.5)
    update.set(ylabel="accuracy", ylim=(0, 1.18))
    update.legend(loc="upper center", ncols=2, fontsize=8)
    heading(update, "4 of 8 keys get a new value")
    return figure


DEMONSTRATIONS = (Demonstration("write_rules", run, draw),)
