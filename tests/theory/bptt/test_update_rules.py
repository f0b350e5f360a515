"""Momentum and the loss without its logarithm against closed forms."""

import numpy as np
import pytest

from src.theory.bptt import update_rules


def test_update_rules():
    result = update_rules.compare_update_rules()
    assert all(claim.holds for claim in result.claims)
    assert result.right_I[-1] == pytest.approx(1, abs=0.01)
    assert result.printed_I[-1] == pytest.approx(0.5)
    np.testing.assert_allclose(result.with_log_Q, 1 - result.probability_Q)
    np.testing.assert_allclose(result.without_log_Q, result.probability_Q * (1 - result.probability_Q))
    assert sum(bool(claim.refuted) for claim in result.claims) == 6
    assert [len(axes.lines) for axes in update_rules.draw_update_rules(result).axes] == [3, 2]
