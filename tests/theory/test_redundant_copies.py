"""Reads from permuted copies against the expected error."""

import io

import numpy as np
import pytest

from src.theory import redundant_copies
from src.theory.redundant_copies import expected_error, mean_and_error, measured_errors, random_phases, read, written


@pytest.fixture(scope="module")
def result():
    return redundant_copies.run()


def test_every_claim_holds(result):
    assert len(result.claims) == 6
    for claim in result.claims:
        assert claim.holds, claim


def test_the_slopes_are_those_of_the_law(result):
    def slope(x, measured):
        return np.polyfit(np.log(x), np.log(measured[0]), 1)[0]

    assert slope(result.copies, result.of_many_entries) == pytest.approx(-1, abs=0.025)
    for measured in (result.of_one_copy, result.of_few_copies, result.of_many_copies):
        assert slope(result.pairs - 1, measured) == pytest.approx(1, abs=0.02)
    # with few entries, the curve flattens toward the floor
    steps = np.diff(np.log(result.of_few_entries[0])) / np.log(2)
    assert steps[0] < -0.9 < -0.6 < steps[-1]


@pytest.mark.parametrize(
    ("num_pairs", "num_copies", "num_entries", "expected"),
    [(8, 1, 25, 7.0), (8, 16, 25, 0.7), (8, 4, 25, 1.96), (2, 2, 2, 0.75), (3, 5, 1, 2.0)],
)
def test_the_law_in_small_memories(num_pairs, num_copies, num_entries, expected):
    assert expected_error(num_pairs, num_copies, num_entries) == pytest.approx(expected)
    errors_D, shares_D = measured_errors(np.random.default_rng(1), num_pairs, num_copies, num_entries, draws=2000)
    for values_D, value in [(errors_D, expected), (shares_D, 1)]:
        mean, error = mean_and_error(values_D)
        assert abs(mean - value) < 4 * error
        assert error < 0.07 * value


def test_one_pair_is_read_back_exactly():
    rng = np.random.default_rng(0)
    keys_MN, contents_MN = random_phases(rng, 1, 9), rng.standard_normal((1, 9))
    orders_SN = np.stack([rng.permutation(9) for _ in range(3)])
    np.testing.assert_allclose(
        read(keys_MN, written(keys_MN, contents_MN, orders_SN), orders_SN), contents_MN, atol=1e-15
    )


def test_without_the_conjugate_nothing_comes_back():
    rng = np.random.default_rng(0)
    keys_MN, contents_MN = random_phases(rng, 1, 2000), random_phases(rng, 1, 2000)
    orders_SN = np.arange(2000)[None]
    memory_SN = written(keys_MN, contents_MN, orders_SN)
    assert abs(np.vdot(contents_MN, read(keys_MN.conj(), memory_SN, orders_SN))) / 2000 < 0.1


def test_the_figure_shows_the_law_and_every_measurement(result):
    figure = redundant_copies.draw(result)
    left, right = figure.axes
    assert [len(axes.containers) for axes in (left, right)] == [2, 3]
    assert (left.get_xscale(), left.get_yscale(), right.get_xscale(), right.get_yscale()) == ("log",) * 4
    figure.savefig(io.BytesIO(), format="png")


def test_the_same_seed_gives_the_same_numbers():
    first, second, other = (redundant_copies.run(draws=3, seed=seed) for seed in (5, 5, 6))
    assert first.claims == second.claims
    assert first.claims != other.claims
