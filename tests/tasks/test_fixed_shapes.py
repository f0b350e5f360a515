"""The loss of every task fits a CUDA graph and a population: no shape and no decision depends on values."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from src.models.rnn import RNN
from src.models.sequence import SequenceModel
from src.specs import Batch
from src.tasks import base, polyphonic_music
from tests.tasks.files import FILES, make
from tests.training.tape import TapeRecorder

pytestmark = pytest.mark.usefixtures("made_up_data")


def loss_and_gradient(task, batch, record=False):
    torch.manual_seed(0)
    model = SequenceModel(task.input_spec, task.output_spec, partial(RNN, hidden_size=4, kernel="reference"))

    def compute():
        losses = task.loss(model, batch).losses
        return [*losses.values(), *torch.autograd.grad(sum(losses.values()), list(model.parameters()))]

    return TapeRecorder().record(compute)[1] if record else compute()


def never(tensor):
    return False


QUICK = ["mqar", "selective_copying", "polyphonic_music"]


@pytest.mark.parametrize(
    "file", [pytest.param(f, marks=() if f.stem in QUICK else pytest.mark.slow, id=f.stem) for f in FILES]
)
def test_the_loss_of_a_task_can_be_recorded(file, monkeypatch):
    task = make(file)
    batch = task.batch("train", 0, 3)
    if batch.mask is None and batch.lengths is None:
        expected = None
    else:
        expected = loss_and_gradient(task, batch)
        with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
            loss_and_gradient(task, batch, record=True)
    for module in (base, polyphonic_music):
        monkeypatch.setattr(module, "can_select", never)
    found = loss_and_gradient(task, batch, record=True)
    if expected is not None:
        assert_close(found, expected)


@pytest.mark.parametrize("kind", ["class", "bits", "value"])
def test_a_masked_mean_is_that_of_the_selected_positions(kind, monkeypatch):
    task = make(next(file for file in FILES if file.stem == "copying"))
    task.output_spec = replace(task.output_spec, kind=kind)
    prediction = torch.randn(2, 3, 4, dtype=torch.float64)
    targets = torch.randint(4, (2, 3)) if kind == "class" else torch.rand(2, 3, 4, dtype=torch.float64)
    batch = Batch(torch.zeros(2, 3), targets, torch.tensor([[True, False, True], [False, False, True]]))
    expected = task.criterion(prediction, batch)
    mapped = torch.func.vmap(lambda p: task.criterion(p, batch))(prediction[None])
    monkeypatch.setattr(base, "can_select", never)
    assert_close(task.criterion(prediction, batch), expected)
    assert_close(mapped[0], expected)
