import pytest
import torch
from torch.testing import assert_close

from src.specs import Output
from src.tasks.in_context_language import InContextLanguage, following
from tests.tasks.averages import averages
from tests.tasks.largest import largest


def test_strings_follow_an_automaton_and_the_targets_are_its_legal_symbols():
    """The strings are replayed by hand on the automata themselves."""
    task = InContextLanguage(0, sequence_length=40)
    batch = task.generate(60, torch.Generator().manual_seed(4))
    legal_NSV, next_NSV = task._automata(60, torch.Generator().manual_seed(4))
    lengths = set()
    for n in range(60):
        state, length = None, 0
        for t, symbol in enumerate(batch.inputs[n].tolist()):
            if symbol == 6:
                lengths.add(length)
                state, length = 0, 0
            else:
                assert legal_NSV[n, state, symbol], (n, t)
                state, length = int(next_NSV[n, state, symbol]), length + 1
            assert torch.equal(batch.targets[n, t] > 0, legal_NSV[n, state])
        assert batch.inputs[n, 0] == 6
    assert lengths == set(range(11))  # 0: before the first string


def test_automata_have_the_degrees_and_states_that_were_asked_for():
    task = InContextLanguage(0, num_states=4, max_edges=2)
    legal_NSV, next_NSV = task._automata(3000, torch.Generator().manual_seed(0))
    assert_close(legal_NSV.sum(2).flatten().bincount() / 12_000, torch.tensor([0, 0.5, 0.5]), rtol=0, atol=0.02)
    assert_close(legal_NSV.float().mean((0, 1)), torch.full((6,), 1.5 / 6), rtol=0, atol=0.02)
    assert (next_NSV != torch.arange(4)[:, None]).all()
    largest = next_NSV.flatten(1).amax(1)
    assert_close(largest.bincount() / 3000, torch.tensor([0, 1, 1, 1]) / 3, rtol=0, atol=0.03)


def test_lengths_of_strings_and_their_symbols_are_equally_likely():
    """Measured on the first string of every sequence, and on its first symbol where two are legal."""
    task = InContextLanguage(0, num_symbols=4, max_edges=2, max_string_length=5, sequence_length=12)
    batch = task.generate(6000, torch.Generator().manual_seed(0))
    lengths_N = (batch.inputs[:, 1:] == 4).int().argmax(1)
    assert_close(lengths_N.bincount() / 6000, torch.tensor([0, 1, 1, 1, 1, 1]) / 5, rtol=0, atol=0.02)
    two_N = batch.targets[:, 0].sum(1) == 2
    is_first_N = batch.targets[two_N, 0].argmax(1) == batch.inputs[two_N, 1]
    assert is_first_N.float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_early_and_late_errors_are_those_of_the_first_and_the_last_quarter():
    task = InContextLanguage(0)
    batch = task.batch("test", 0, 20)
    for wrong, early, late in ((slice(14), 1, 0), (slice(-14, None), 0, 1), (slice(14, -14), 0, 0)):
        prediction = batch.targets.clone()
        prediction[:, wrong] *= -1
        metrics = averages(task.metrics(Output(prediction, torch.empty(0), None), batch))
        assert (metrics["early_error"], metrics["late_error"]) == (early, late)


def test_floors_are_those_of_hand_made_predictors():
    task = InContextLanguage(0)
    batch = task.batch("test", 0, 2000)
    floors = task.floors
    answers = {
        "chance": torch.rand(batch.targets.shape),
        "what followed this symbol before": following(batch.inputs, 6),
        "knows the language": torch.where(batch.targets > 0, 0.0, -100.0),
    }
    for name, prediction in answers.items():
        metrics = averages(task.metrics(Output(prediction, torch.empty(0), None), batch))
        assert metrics["error"] == pytest.approx(floors[name]["error"], abs=0.01)
        if name == "knows the language":
            assert metrics["nll"] == pytest.approx(floors[name]["nll"], abs=0.01)


def test_the_loss_is_the_expected_cross_entropy_of_the_next_symbol():
    """Compared with the average over many draws from the legal symbols."""
    task = InContextLanguage(0)
    batch = task.batch("train", 0, 2)
    prediction = torch.randn(batch.targets.shape)
    drawn = torch.multinomial(batch.targets.flatten(0, 1), 40_000, replacement=True)
    expected = -prediction.flatten(0, 1).log_softmax(1).gather(1, drawn).mean()
    assert float(task.criterion(prediction, batch)) == pytest.approx(float(expected), abs=0.01)


def test_bigrams_are_counted_so_far():
    counts = following(torch.tensor([[2, 0, 1, 0, 1, 0]]), 2)
    assert counts[0].tolist() == [[0, 0], [0, 0], [0, 0], [0, 1], [1, 0], [0, 2]]


def test_bigrams_are_what_followed_the_same_symbol_at_every_step_before():
    inputs_NT = torch.randint(4, (5, 30), generator=torch.Generator().manual_seed(0))
    for symbols, counts_TV in zip(inputs_NT.tolist(), following(inputs_NT, 3).tolist(), strict=True):
        for t, counts_V in enumerate(counts_TV):
            after = [symbols[s + 1] for s in range(t) if symbols[s] == symbols[t]]
            assert counts_V == [after.count(symbol) for symbol in range(3)]


def test_bigrams_take_no_more_memory_than_there_are_counts():
    inputs_NT = torch.randint(4, (5, 300), generator=torch.Generator().manual_seed(0))
    assert largest(lambda: following(inputs_NT, 3)) <= 5 * 300 * 4
