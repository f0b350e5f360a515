"""The claims of the topic, and the printed statements that they refute."""

import pytest

from src.theory import bptt


def test_all_claims_hold_and_say_what_was_refuted():
    result = bptt.compare_gradients(seed=3)
    assert all(claim.holds for claim in result.claims)
    assert sum(bool(claim.refuted) for claim in result.claims) == 15
    assert max(result.right.values()) < 1e-10 < 1e-4 < min(result.printed.values())
    assert result.printed["softmax Jacobian with y for ŷ"] == 1
    assert result.printed["no minus sign in E"] == pytest.approx(2)
    assert [len(axes.lines) for axes in bptt.draw_gradients(result).axes] == [3, 2]
