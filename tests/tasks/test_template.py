import pytest
import torch

from src.tasks.template import Template


def longest_run(bits):
    return max(len(run) for run in "".join("1" if bit > 0 else "0" for bit in bits).split("0"))


@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("ones", [0.3, 0.9])
def test_a_block_is_there_if_and_only_if_the_label_says_so(variable, ones):
    task = Template(0, variant="block", sequence_length=20, template_length=4, ones=ones, variable_length=variable)
    batch = task.batch("train", 0, 500)
    lengths = [20] * 500 if batch.lengths is None else batch.lengths.tolist()
    assert set(batch.inputs.unique().tolist()) == {-1.0, 1.0}
    without = set()
    for bits, length, target in zip(batch.inputs[..., 0].tolist(), lengths, batch.targets.tolist(), strict=True):
        longest = longest_run(bits[:length])
        assert (longest >= 4) == bool(target)
        without |= set() if target else {longest}
    assert max(without) == 3
    assert batch.targets.float().mean() == pytest.approx(0.5, abs=0.1)
    assert (set(lengths) == set(range(10, 21))) == variable


@pytest.mark.parametrize("variable", [False, True])
def test_a_saw_tooth_is_there_if_and_only_if_the_label_says_so_at_any_place(variable):
    task = Template(0, sequence_length=12, template_length=5, noise_std=2.0, variable_length=variable)
    batch = task.batch("train", 0, 2000)
    lengths = torch.full((2000,), 12) if batch.lengths is None else batch.lengths
    ramp = torch.linspace(-2, 2, 5)
    found = (batch.inputs[..., 0].unfold(1, 5, 1) - ramp).abs().amax(2) < 1e-6
    assert torch.equal(found.any(1), batch.targets == 1)
    starts = found.float().argmax(1)[batch.targets == 1]
    assert (starts + 5 <= lengths[batch.targets == 1]).all()
    assert set(starts.tolist()) == set(range(8))
    assert variable or starts.bincount().min() > 0.8 * len(starts) / 8
    assert batch.targets.double().mean() == pytest.approx(0.5, abs=0.03)
    noise = batch.inputs[batch.targets == 0]
    assert noise.mean() == pytest.approx(0, abs=0.1)
    assert noise.std() == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("ones", [0.3, 0.6])
def test_bits_are_ones_as_often_as_asked_for(ones):
    """Measured in sequences that are too short for a long run to occur by chance."""
    batch = Template(0, variant="block", sequence_length=30, template_length=28, ones=ones).batch("train", 0, 1000)
    assert float((batch.inputs[batch.targets == 0] > 0).float().mean()) == pytest.approx(ones, abs=0.02)


def test_a_template_longer_than_the_shortest_sequence_is_refused():
    with pytest.raises(ValueError, match=r"^template_length=6: must be at most 5, the shortest length$"):
        Template(0, sequence_length=10, template_length=6, variable_length=True)
