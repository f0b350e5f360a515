"""Metrics of a whole split are the same however it is divided into batches.

Shapes: N examples, B of them in a batch, T time steps.
"""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from src.models.lstm import LSTM
from src.models.rnn import RNN
from src.models.sequence import SequenceModel
from src.ops.inputs import Inputs
from src.specs import Batch, InputSpec, Output, OutputSpec
from src.tasks.base import Task, fraction
from src.training.evaluation import evaluate
from tests.tasks.averages import averages
from tests.tasks.files import FILES, make, variants

N, T = 40, 9
OF_WINDOWS = ("language_model", "polyphonic_music")
"""Tasks whose sequences are cut into windows, of several lengths or with a state that is carried along."""

pytestmark = pytest.mark.usefixtures("made_up_data")


class Exact(SequenceModel):
    """A network in float64, so that no answer depends on how a sum is rounded."""

    def forward(self, inputs: Tensor | Inputs, *arguments, **settings) -> Output:
        if isinstance(inputs, Inputs):
            inputs = inputs._replace(table=inputs.table.double())
        elif inputs.is_floating_point():
            inputs = inputs.double()
        return super().forward(inputs, *arguments, **settings)


def network(task: Task, core: type = RNN) -> SequenceModel:
    """A network whose answers are neither all right nor all the same."""
    model = Exact(task.input_spec, task.output_spec, partial(core, hidden_size=8), embedding_size=8)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.copy_(2 * torch.randn(parameter.shape))
    return model.double()


def assert_batches_do_not_matter(task: Task, model: SequenceModel) -> dict[str, float]:
    """Evaluate 40 examples in batches of 1, 7 and 40; return the metrics."""
    results = []
    for size in (1, 7, 40):
        task.evaluation_batch_size = size
        assert task.sizes["val"] is None or len(list(task.evaluation("val"))) == -(-N // size)
        results.append(evaluate(model, task, "val"))
    assert results[0].keys() == results[1].keys() == results[2].keys()
    for result in results[:2]:
        assert result == pytest.approx(results[2], rel=1e-6, abs=1e-6)
    return results[2]


class MadeUp(Task):
    """Sequences of several lengths, with a mask that keeps no step of some rows and every step of others."""

    def __init__(self, output_spec: OutputSpec):
        super().__init__(0, train_size=None, val_size=N, test_size=N)
        self.input_spec = InputSpec("vectors", 3)
        self.output_spec = output_spec

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        spec = self.output_spec
        shape = (num_examples, T) if spec.every_step else (num_examples,)
        inputs = torch.randn(num_examples, T, 3, generator=generator)
        lengths = torch.randint(1, T + 1, (num_examples,), generator=generator)
        share = torch.randint(3, (num_examples, 1), generator=generator) / 2
        mask = torch.rand(num_examples, T, generator=generator) < share
        if spec.kind == "class":
            targets = torch.randint(spec.size, shape, generator=generator)
        else:
            targets = torch.rand(*shape, spec.size, generator=generator)
            targets = targets.round() if spec.kind == "bits" else targets
        return Batch(inputs, targets, mask if spec.every_step else None, lengths)

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        return {}

    def render(self, batch: Batch, row: int, output: Output) -> str:
        return ""


each_kind = pytest.mark.parametrize("kind", ["class", "value", "bits"])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_metrics_of_every_choice_of_a_task_do_not_depend_on_the_batch_size(file):
    for change in variants(file):
        task = make(file, **change)
        metrics = assert_batches_do_not_matter(task, network(task))
        assert task.objective.metric in metrics


@pytest.mark.parametrize("file", [file for file in FILES if file.stem in OF_WINDOWS], ids=lambda file: file.stem)
def test_metrics_of_windows_and_a_state_of_several_parts_do_not_depend_on_the_batch_size(file):
    task = make(file)
    assert_batches_do_not_matter(task, network(task, LSTM))


@each_kind
def test_with_a_mask_every_step_that_counts_weighs_the_same(kind):
    task = MadeUp(OutputSpec(kind, 4, every_step=True))
    model = network(task)
    metrics = assert_batches_do_not_matter(task, model)

    task.evaluation_batch_size = N
    (batch,) = task.evaluation("val")
    assert len(batch.mask.sum(1).unique()) > 3
    assert (batch.mask.sum(1) == 0).any()
    with torch.no_grad():
        prediction = model(batch.inputs, lengths=batch.lengths, return_state=False).prediction
    losses, errors = [], []
    for row, t in batch.mask.nonzero().tolist():
        answer, target = prediction[row, t], batch.targets[row, t]
        if kind == "class":
            losses.append(-answer.log_softmax(0)[target])
            errors.append((answer.argmax() != target).double())
        elif kind == "value":
            losses.append((answer - target).square().mean())
        else:
            losses.append(functional.binary_cross_entropy(answer.sigmoid(), target.double()))
            errors.append(((answer > 0) != (target > 0)).double().mean())
    expected = {"mse" if kind == "value" else "nll": float(torch.stack(losses).mean())}
    expected |= {"error": float(torch.stack(errors).mean())} if errors else {}
    assert metrics == pytest.approx(expected, rel=1e-6)


@each_kind
def test_with_lengths_every_sequence_weighs_the_same(kind):
    task = MadeUp(OutputSpec(kind, 4))
    model = network(task)
    metrics = assert_batches_do_not_matter(task, model)

    (batch,) = task.evaluation("val")
    assert len(batch.lengths.unique()) == T
    rows = range(N)
    alone = [batch.take(slice(row, row + 1))._replace(lengths=None) for row in rows]
    alone = [one._replace(inputs=one.inputs[:, : batch.lengths[row]]) for row, one in zip(rows, alone, strict=True)]
    with torch.no_grad():
        losses = [task.loss(model, one).loss for one in alone]
    assert metrics[task.loss_name] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-6)


def test_a_batch_without_a_step_that_counts_weighs_nothing():
    task = MadeUp(OutputSpec("class", 4, every_step=True))
    batch = task.batch("val", 0, 5)
    batch = batch._replace(mask=torch.zeros_like(batch.mask))
    metrics = task.metrics(Output(torch.randn(5, T, 4), torch.empty(0), None), batch)
    assert {name: (float(total), count) for name, (total, count) in metrics.items()} == {"error": (0, 0), "nll": (0, 0)}


def test_a_batch_counts_its_examples_or_the_steps_of_its_mask():
    masked, last = MadeUp(OutputSpec("class", 4, every_step=True)), MadeUp(OutputSpec("class", 4))
    batch = masked.batch("val", 0, N)
    assert masked.count(batch) == int(batch.mask.sum()) < N * T
    assert masked.count(batch._replace(mask=None)) == N
    assert last.count(last.batch("val", 0, N)) == N


@each_kind
def test_the_loss_is_named_after_what_it_is(kind):
    task = MadeUp(OutputSpec(kind, 4))
    assert task.loss_name == ("mse" if kind == "value" else "nll")
    step = task.loss(network(task), task.batch("train", 0, 5))
    assert list(step.losses) == [task.loss_name]


def test_a_fraction_counts_flags_of_any_shape():
    total, count = fraction(torch.tensor([[True, False, True], [False, False, True]]))
    assert (float(total), count) == (3, 6)
    assert averages({"error": (total, count)}) == {"error": 0.5}
