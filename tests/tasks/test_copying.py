import math

import pytest
import torch

from src.specs import Output
from src.tasks.copying import Copying
from tests.tasks.averages import averages


@pytest.mark.parametrize(("delay", "num_symbols", "copy_length"), [(100, 8, 10), (1, 2, 1), (5, 36, 3)])
def test_the_symbols_are_asked_for_after_the_sign_to_go(delay, num_symbols, copy_length):
    task = Copying(0, sequence_length=delay, num_symbols=num_symbols, copy_length=copy_length)
    batch = task.batch("train", 0, 400)
    blank, go = num_symbols, num_symbols + 1
    assert task.input_spec.size == num_symbols + 2
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        symbols = inputs[:copy_length]
        assert inputs == symbols + [blank] * (delay - 1) + [go] + [blank] * copy_length
        assert targets == [blank] * (delay + copy_length) + symbols
    assert set(batch.inputs[:, :copy_length].flatten().tolist()) == set(range(num_symbols))


def test_the_memoryless_floor_is_that_of_the_papers():
    floor = Copying(0, sequence_length=500).floors["knows when, not what"]
    assert floor == pytest.approx({"nll": 10 * math.log(8) / 520, "error": 7 / 8})


def test_hand_made_predictors_reach_their_floors():
    task = Copying(0, sequence_length=30, test_size=2000)
    batch = task.batch("test", 0, 2000)
    shares = torch.cat([torch.full((8,), 10 / 50 / 8), torch.tensor([40 / 50])]).log().expand(2000, 50, 9)
    when = torch.full((2000, 50, 9), -40.0)
    when[:, :-10, 8] = 40.0
    when[:, -10:, :8] = 0.0
    for description, logits in (("the same answer at every step", shares), ("knows when, not what", when)):
        metrics = averages(task.metrics(Output(logits, torch.empty(0), None), batch))
        assert metrics["nll"] == pytest.approx(task.floors[description]["nll"], abs=1e-4)
        assert metrics["error"] == pytest.approx(task.floors[description]["error"], abs=0.01)


def test_error_counts_the_symbols_and_nothing_else():
    task = Copying(0, sequence_length=20)
    batch = task.batch("train", 0, 4)
    logits = 20.0 * torch.nn.functional.one_hot(batch.targets, 9).float()
    logits[:, :30] = 0
    logits[0, -1] = -logits[0, -1]
    output = Output(logits, torch.empty(0), None)
    assert averages(task.metrics(output, batch))["error"] == pytest.approx(1 / 40)
    assert task.render(batch, 0, output).endswith("WRONG")
    assert task.render(batch, 1, output).endswith("right")
    text = "".join(map(str, batch.inputs[1, :10].tolist()))
    assert task.render(batch, 1, output).startswith(f"{text} after 20 steps   predicted {text}")
    assert "".join(task.labels(batch, 1)) == text + "_" * 19 + ">" + "_" * 10
