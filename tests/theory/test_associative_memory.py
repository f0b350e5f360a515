"""The linear associator against explicit sums, and its printed form."""

import numpy as np
import pytest

from src.theory import associative_memory as topic


def test_crosstalk_is_the_sum_over_the_other_pairs(rng):
    keys_FP, values_GP = rng.standard_normal((7, 5)), rng.standard_normal((4, 5))
    expected_GP = np.zeros((4, 5))
    for j in range(5):
        for k in range(5):
            if k != j:
                expected_GP[:, j] += values_GP[:, k] * (keys_FP[:, k] @ keys_FP[:, j])
    np.testing.assert_allclose(topic.crosstalk(keys_FP, values_GP), expected_GP, rtol=1e-12)
    recalled_GP = topic.outer_products(keys_FP, values_GP) @ keys_FP
    np.testing.assert_allclose(recalled_GP, values_GP * (keys_FP**2).sum(0) + expected_GP, rtol=1e-12)


def test_the_printed_recall_misses_the_length_of_the_key(rng):
    f_F, g_G, rate = np.array([3.0, 4.0]), rng.standard_normal(3), 0.7
    recalled_G = topic.outer_products(f_F[:, None], g_G[:, None], rate) @ f_F
    np.testing.assert_allclose(recalled_G, rate * 25 * g_G)
    assert not np.allclose(recalled_G, rate * g_G)


@pytest.mark.parametrize(("num_pairs", "cosine"), [(20, 0.956), (100, 0.817), (200, 0.707)])
def test_cosine_falls_with_the_load(rng, num_pairs, cosine):
    assert topic.expected_cosine(np.array(num_pairs), 200) == pytest.approx(cosine, abs=0.002)
    keys_FP, values_GP = rng.standard_normal((200, num_pairs)), rng.standard_normal((200, num_pairs))
    recalled_GP = topic.outer_products(keys_FP, values_GP) @ keys_FP
    assert topic.cosines(recalled_GP, values_GP).mean() == pytest.approx(cosine, rel=0.02)


def test_least_squares_is_exact_for_independent_keys_and_a_projection_beyond(rng):
    values_GP = rng.standard_normal((100, 160))
    for num_pairs, expected in ((80, 1.0), (160, np.sqrt(0.5))):
        keys_FP = rng.standard_normal((80, num_pairs))
        solution = np.linalg.lstsq(keys_FP.T, values_GP[:, :num_pairs].T, rcond=None)[0].T  # without the pseudoinverse
        cosine = topic.cosines(solution @ keys_FP, values_GP[:, :num_pairs]).mean()
        assert cosine == pytest.approx(expected, rel=0.03)
        assert topic.expected_cosine_of_least_squares(np.array(num_pairs), 80) == pytest.approx(expected)
