"""Rules for writing to a matrix, against explicit loops and exact cases."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from src.theory import write_rules


@pytest.fixture
def pairs(rng):
    """Keys [R, N, K] and values [R, N, V]."""
    return write_rules.unit_vectors((3, 7, 5), rng), rng.standard_normal((3, 7, 4))


def test_a_sum_with_decay_is_the_loop(pairs):
    keys, values = pairs
    S = np.zeros((3, 5, 4))
    for k, v in zip(keys.transpose(1, 0, 2), values.transpose(1, 0, 2), strict=True):
        S = 0.8 * S + k[:, :, None] * v[:, None]
    assert write_rules.hebb(keys, values, 0.8) == pytest.approx(S, abs=1e-14)


def test_a_write_by_the_delta_rule_is_exact_and_replaces_the_value_of_its_key(pairs):
    keys, values = pairs
    S = write_rules.delta(keys, values)
    assert np.einsum("rkv,rk->rv", S, keys[:, -1]) == pytest.approx(values[:, -1], abs=1e-14)
    again = write_rules.delta(np.concatenate([keys[:, :1], keys[:, :1]], 1), values[:, :2])
    assert np.einsum("rkv,rk->rv", again, keys[:, 0]) == pytest.approx(values[:, 1], abs=1e-14)


def test_with_orthonormal_keys_all_rules_agree(rng):
    keys, values = ortho_group.rvs(5, random_state=rng)[None], rng.standard_normal((1, 5, 4))
    S = write_rules.hebb(keys, values)
    for rule in (write_rules.delta, write_rules.least_squares):
        assert rule(keys, values) == pytest.approx(S, abs=1e-12)


def test_many_passes_of_the_delta_rule_approach_least_squares(rng):
    keys, values = write_rules.unit_vectors((2, 4, 9), rng), rng.standard_normal((2, 4, 3))
    S = write_rules.delta(keys, values, num_passes=300)
    assert write_rules.least_squares(keys, values) == pytest.approx(S, abs=1e-6)


def test_what_is_predicted_is_measured(rng):
    for num_pairs, size, decay in ((20, 32, 1.0), (32, 32, 0.9), (40, 48, 0.95)):
        measured = write_rules.accuracy(lambda k, v, d=decay: write_rules.hebb(k, v, d), num_pairs, size, 100, rng)
        assert write_rules.predicted_accuracy(num_pairs, size, decay) == pytest.approx(measured, abs=0.03)


def test_the_capacity_is_where_the_accuracy_falls_through_the_bound(rng):
    found = write_rules.capacity(write_rules.hebb, 16, 60, rng)
    assert write_rules.accuracy(write_rules.hebb, int(0.8 * found), 16, 200, rng) > write_rules.BOUND
    assert write_rules.accuracy(write_rules.hebb, int(1.3 * found), 16, 200, rng) < write_rules.BOUND
