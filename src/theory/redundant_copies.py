"""Pairs in a complex memory, and the effect of permuted copies on the noise of reading.

Shapes: D draws, M pairs, S copies, N complex entries.
"""

from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Ge
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.theory.base import Claim, Demonstration
from src.theory.claims import at_most, near
from src.theory.figures import LIMIT, THEORY, heading, new_figure, points

DANIHELKA = "Danihelka et al. (2016), arXiv 1602.03032"
COPIES = (1, 2, 4, 8, 16, 32)
PAIRS = (2, 3, 5, 9, 17)
FEW_COPIES, MANY_COPIES = 4, 16
"""Numbers of copies with which the number of pairs is varied; Ba et al. (2016) use 4."""


class Noise(NamedTuple):
    """The mean squared error of reading, with its standard error, by number of copies and of pairs."""

    claims: tuple[Claim, ...]
    few_entries: int
    many_entries: int
    num_pairs: int
    """Number of pairs in the measurements over copies."""
    copies: np.ndarray
    pairs: np.ndarray
    of_few_entries: np.ndarray
    """Mean and standard error for each number of copies, [2, copies], with few entries in a copy."""
    of_many_entries: np.ndarray
    of_one_copy: np.ndarray
    """Mean and standard error for each number of pairs, [2, pairs], with many entries in one copy."""
    of_few_copies: np.ndarray
    of_many_copies: np.ndarray


def random_phases(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Complex numbers of modulus 1, whose inverse is their conjugate."""
    return np.exp(2j * np.pi * rng.random(shape))


def written(keys_MN: np.ndarray, contents_MN: np.ndarray, orders_SN: np.ndarray) -> np.ndarray:
    """The copies c_s = Σ_k (P_s r_k) ⊙ x_k, [S, N], where entry n of P_s r is entry `orders[s, n]` of r."""
    return np.stack([(keys_MN[:, order] * contents_MN).sum(0) for order in orders_SN])


def read(keys_MN: np.ndarray, memory_SN: np.ndarray, orders_SN: np.ndarray) -> np.ndarray:
    """The mean over the copies of conj(P_s r_j) ⊙ c_s, for every key, [M, N]."""
    copies = zip(orders_SN, memory_SN, strict=True)
    return sum(keys_MN[:, order].conj() * c_N for order, c_N in copies) / len(orders_SN)


def expected_error(num_pairs: Any, num_copies: Any, num_entries: int) -> Any:
    r"""(M - 1) [1/S + (1 - 1/S) / N], for contents of unit variance.

    Let φ be the phases of conj(r_j) ⊙ r_k. Pair k adds x_k[n] (1/S) Σ_s exp(i φ[π_s(n)]) to entry n. Of the S² terms
    of the squared modulus, the S diagonal ones are 1. Every other term has mean 0 where the two copies read different
    phases, and is 1 where π_s(n) = π_t(n), which has probability 1/N.
    """
    return (num_pairs - 1) * (1 / num_copies + (1 - 1 / num_copies) / num_entries)


def measured_errors(
    rng: np.random.Generator, num_pairs: int, num_copies: int, num_entries: int, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """The mean squared error and ⟨x, read⟩ / ⟨x, x⟩ for each draw of permutations, keys and contents, both [D]."""
    errors_D, shares_D = np.empty(draws), np.empty(draws)
    for draw in range(draws):
        orders_SN = np.stack([rng.permutation(num_entries) for _ in range(num_copies)])
        keys_MN = random_phases(rng, num_pairs, num_entries)
        contents_MN = rng.normal(scale=np.sqrt(0.5), size=(num_pairs, num_entries, 2)) @ (1, 1j)
        read_MN = read(keys_MN, written(keys_MN, contents_MN, orders_SN), orders_SN)
        errors_D[draw] = (abs(read_MN - contents_MN) ** 2).mean()
        shares_D[draw] = np.vdot(contents_MN, read_MN).real / np.vdot(contents_MN, contents_MN).real
    return errors_D, shares_D


def mean_and_error(values_D: np.ndarray) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(values_D.mean()), float(values_D.std(ddof=1) / np.sqrt(len(values_D)))


def slope_and_error(x: np.ndarray, means_and_errors: np.ndarray) -> tuple[float, float]:
    """The least-squares slope of log(mean) against log(x), and its standard error, from the errors of the means."""
    means, errors = means_and_errors
    weights = np.log(x) - np.log(x).mean()
    weights = weights / (weights**2).sum()
    return float(weights @ np.log(means)), float(np.sqrt(weights**2 @ (errors / means) ** 2))


def run(
    few_entries: int = 25,
    many_entries: int = 512,
    num_pairs: Annotated[int, Ge(2)] = 8,
    draws: Annotated[int, Ge(2)] = 40,
    seed: int = 0,
) -> Noise:
    """Write random pairs, read all of them back, and compare the errors with the formula."""
    rng = np.random.default_rng(seed)
    copies, pairs = np.array(COPIES), np.array(PAIRS)
    shares = []

    def series(settings: list[tuple[int, int]], num_entries: int, draws: int) -> np.ndarray:
        statistics = []
        for num_pairs, num_copies in settings:
            errors_D, shares_D = measured_errors(rng, num_pairs, num_copies, num_entries, draws)
            statistics.append(mean_and_error(errors_D))
            shares.append(mean_and_error(shares_D))
        return np.array(statistics).T

    of_few_entries = series([(num_pairs, s) for s in COPIES], few_entries, 10 * draws)
    of_many_entries = series([(num_pairs, s) for s in COPIES], many_entries, draws)
    of_one_copy, of_few_copies, of_many_copies = (
        series([(m, s) for m in PAIRS], many_entries, draws) for s in (1, FEW_COPIES, MANY_COPIES)
    )

    laws = [expected_error(num_pairs, copies, n) for n in (few_entries, many_entries)]
    laws += [expected_error(pairs, s, many_entries) for s in (1, FEW_COPIES, MANY_COPIES)]
    measured = np.concatenate([of_few_entries, of_many_entries, of_one_copy, of_few_copies, of_many_copies], axis=1)
    deviations = abs(measured[0] - np.concatenate(laws)) / measured[1]
    worst_share = max(abs(mean - 1) / error for mean, error in shares)

    along_copies, error_along_copies = slope_and_error(copies, of_many_entries)
    bend = slope_and_error(copies, np.stack([laws[1], np.ones(len(copies))]))[0] + 1
    along_pairs, error_along_pairs = slope_and_error(pairs - 1, of_few_copies)
    without_chance = (num_pairs - 1) / copies[-1]
    (last, last_error), last_law = of_few_entries[:, -1], laws[0][-1]
    most = float(np.sqrt(2 * np.log(2 * len(deviations)))) + 2
    claims = (
        near(
            f"From one copy of {num_pairs} pairs, the conjugate of a key reads its content plus noise of variance "
            f"M - 1 = {num_pairs - 1}",
            f"{DANIHELKA}, section 3",
            num_pairs - 1,
            of_many_entries[0, 0],
            4 * of_many_entries[1, 0],
            "four standard errors",
        ),
        at_most(
            "The noise is unbiased: the share of the content in what is read is 1 in every measurement",
            "conj(r) r = 1, and the other phases are independent of the content",
            most,
            float(worst_share),
            f"standard errors, largest of {len(shares)} measurements",
        ),
        near(
            f"With copies the error falls as 1/S: on logarithmic axes the slope from 1 to {copies[-1]} copies of "
            f"{many_entries} entries is -1",
            f"{DANIHELKA}, section 4",
            -1.0,
            along_copies,
            bend + 4 * error_along_copies,
            f"{bend:.3f} for copies that agree by chance, plus four standard errors",
        ),
        near(
            f"With {FEW_COPIES} copies the error grows like the number of other pairs: the slope over M - 1 is 1",
            f"{DANIHELKA}, section 3",
            1.0,
            along_pairs,
            4 * error_along_pairs,
            "four standard errors",
        ),
        at_most(
            "The error is (M - 1) [1/S + (1 - 1/S) / N]: two permutations agree on an entry with probability 1/N",
            "derived in `expected_error`",
            most,
            float(deviations.max()),
            f"standard errors, largest deviation of {len(deviations)} measurements",
        ),
        near(
            f"With {few_entries} entries, {copies[-1]} copies leave an error of {last_law:.3f}, more than the "
            f"{without_chance:.3f} of independent noise",
            "the same formula",
            last_law,
            last,
            4 * last_error,
            "four standard errors",
        ),
    )
    return Noise(
        claims, few_entries, many_entries, num_pairs, copies, pairs, of_few_entries, of_many_entries, of_one_copy,
        of_few_copies, of_many_copies,
    )  # fmt: skip


def draw(result: Noise) -> Figure:
    """The error as a function of the number of copies and of the number of pairs."""
    figure, [[left, right]] = new_figure(1, 2, panel_width=4.2)
    shown = [(result.few_entries, result.of_few_entries), (result.many_entries, result.of_many_entries)]
    for index, (num_entries, measured) in enumerate(shown):
        law = expected_error(result.num_pairs, result.copies, num_entries)
        _measured(left, result.copies, law, measured, index, f"{num_entries} entries in a copy")
    limit = (result.num_pairs - 1) / result.few_entries
    left.axhline(limit, **LIMIT)
    text = f"(M − 1)/N, the floor of {result.few_entries} entries"
    left.annotate(text, (result.copies[0], limit), (0, -3), textcoords="offset points", va="top", fontsize=8)
    heading(left, f"{result.num_pairs} pairs: copies divide the noise")
    left.set_xlabel("copies S")

    series = [(1, result.of_one_copy), (FEW_COPIES, result.of_few_copies), (MANY_COPIES, result.of_many_copies)]
    for index, (num_copies, measured) in enumerate(series):
        law = expected_error(result.pairs, num_copies, result.many_entries)
        _measured(right, result.pairs - 1, law, measured, index, f"{num_copies} cop{'y' if num_copies == 1 else 'ies'}")
    heading(right, f"{result.many_entries} entries: every other pair adds noise")
    right.set_xlabel("other pairs M − 1")
    for axes in (left, right):
        axes.set_ylabel("mean squared error of what is read")
        axes.legend(frameon=False, fontsize=8, loc="upper right" if axes is left else "upper left")
    return figure


def _measured(axes: Axes, x: np.ndarray, law: np.ndarray, measured: np.ndarray, index: int, label: str) -> None:
    """Draw the formula as a band, and the measurements with error bars of four standard errors."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(x, [str(value) for value in x])
    axes.plot(x, law, **THEORY, label="(M − 1) [1/S + (1 − 1/S)/N]" if index == 0 else None)
    mean, error = measured
    axes.errorbar(x, mean, 4 * error, **points(index), elinewidth=1.2, capsize=3, label=label)


DEMONSTRATIONS = (Demonstration("redundant_copies", run, draw),)
