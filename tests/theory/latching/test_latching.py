"""The claims of the topic, and a printed statement that they refute."""

from src.theory import latching


def test_the_claims_hold_and_the_norm_does_not_define_the_reduced_attracting_set():
    result = latching.run(trials=2000, trials_of_curves=1000, num_steps=100, worst_steps=2000)
    assert [claim.statement for claim in result.claims if not claim.holds] == []
    printed = [claim for claim in result.claims if "‖J_x M‖ < 1" in claim.refuted]
    assert len(printed) == 1
    latching.draw(result)
