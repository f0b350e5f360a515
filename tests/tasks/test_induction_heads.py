import pytest
import torch

from src.specs import Output
from src.tasks.induction_heads import InductionHeads
from tests.tasks.averages import averages


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_answer_is_what_followed_the_special_symbol(split):
    task = InductionHeads(0, num_symbols=5, sequence_length=8, test_length=20)
    batch = task.batch(split, 0, 300)
    lengths = [8] * 300 if batch.lengths is None else batch.lengths.tolist()
    assert (batch.lengths is None) == (split == "train")
    places = set()
    for symbols, target, length in zip(batch.inputs.tolist(), batch.targets.tolist(), lengths, strict=True):
        first, last = (t for t, symbol in enumerate(symbols) if symbol == 5)
        assert last == length - 1
        assert symbols[first + 1] == target < 5
        places.add((length, first))
    assert {place for length, place in places if length == 8} == set(range(6))
    assert set(lengths) == ({8} if split == "train" else {8, 16})


def test_places_of_the_special_symbol_and_answers_are_equally_likely():
    batch = InductionHeads(0, num_symbols=5, sequence_length=8).batch("train", 0, 6000)
    share_T = (batch.inputs == 5).int().argmax(1).bincount() / 6000
    torch.testing.assert_close(share_T, torch.full((6,), 1 / 6), rtol=0, atol=0.02)
    torch.testing.assert_close(batch.targets.bincount() / 6000, torch.full((5,), 1 / 5), rtol=0, atol=0.02)


def test_errors_are_given_by_length():
    task = InductionHeads(0, num_symbols=5, sequence_length=8, test_length=40, test_size=90)
    batch = task.batch("test", 0, 90)
    logits = torch.nn.functional.one_hot(batch.targets, 5).float()
    logits[batch.lengths == 16] *= -1
    metrics = averages(task.metrics(Output(logits, torch.empty(0), None), batch))
    assert metrics["error"] == pytest.approx(1 / 3)
    assert [metrics[f"error_at_{t}"] for t in (8, 16, 32)] == [0, 1, 0]
    assert InductionHeads(0, test_length=None).batch("val", 0, 3).lengths is None


def test_the_test_is_not_shorter_than_training():
    with pytest.raises(ValueError, match="test_length=32: must be at least 64"):
        InductionHeads(0, test_length=32)
