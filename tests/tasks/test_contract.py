"""The contract of every task, tested for every file in configs/task."""

import itertools
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch

from src.models.rnn import RNN
from src.models.sequence import SequenceModel
from src.specs import Batch, Output
from src.tasks.base import Task
from tests.tasks.averages import averages
from tests.tasks.files import FILES, SMALL, make, node, signature, variants

pytestmark = [
    pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem),
    pytest.mark.usefixtures("made_up_data"),
]


def make_fixed(file: Path) -> Task:
    """A task with a training set of 30 examples."""
    task = make(file)
    if task.sizes["train"] != 30:
        pytest.skip("its training set has a size of its own")
    return task


def make_generated(file: Path, **changes) -> Task:
    """A task that draws its examples; tasks that read them from files are tested with these."""
    task = make(file, **changes)
    if task.sizes["val"] is None:
        pytest.skip("its data are read from files")
    return task


def predict(task: Task, batch: Batch) -> Output:
    """A random prediction of the right shape."""
    shape = [len(batch.inputs), task.output_spec.num_outputs]
    if task.output_spec.every_step:
        shape.insert(1, batch.inputs.shape[1])
    return Output(torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.empty(0), None)


def answered(task: Task, batch: Batch) -> tuple[Batch, Output]:
    """A batch with a random prediction; episodes are played by a network."""
    if task.output_spec.kind != "policy":
        return batch, predict(task, batch)
    torch.manual_seed(0)
    step = task.loss(SequenceModel(task.input_spec, task.output_spec, partial(RNN, hidden_size=4)), batch)
    assert step.played is not None
    return step.played, step.output


def same(a: Batch, b: Batch) -> bool:
    return all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def examples(*batches: Batch) -> Counter:
    """The examples of the batches, whatever their order."""
    rows: Counter = Counter()
    for batch in batches:
        for row in range(len(batch.inputs)):
            rows[tuple(tensor[row].numpy().tobytes() for tensor in batch if tensor is not None)] += 1
    return rows


def check(task: Task, batch: Batch) -> None:
    """Shapes, dtypes and ranges are those of the specs."""
    size, steps = len(batch.inputs), batch.inputs.shape[1]
    if task.input_spec.kind == "tokens":
        assert batch.inputs.shape == (size, steps)
        assert batch.inputs.dtype == torch.int64
        assert batch.inputs.min() >= 0
        assert batch.inputs.max() < task.input_spec.size
    else:
        assert batch.inputs.shape == (size, steps, task.input_spec.size)
        assert batch.inputs.dtype == torch.float32
    asked = (size, steps) if task.output_spec.every_step else (size,)
    if task.output_spec.kind in ("class", "policy"):
        assert batch.targets.shape == asked
        assert batch.targets.dtype == torch.int64
        assert batch.targets.min() >= 0
        assert batch.targets.max() < task.output_spec.size
    else:
        assert batch.targets.shape == (*asked, task.output_spec.size)
        assert batch.targets.dtype == torch.float32
    if task.output_spec.kind == "bits":
        assert ((batch.targets == 0) | (batch.targets == 1)).all()
    if batch.mask is not None:
        assert task.output_spec.every_step
        assert batch.mask.shape == asked
        assert batch.mask.dtype == torch.bool
    if batch.lengths is not None:
        assert batch.lengths.shape == (size,)
        assert batch.lengths.dtype == torch.int64
        assert batch.lengths.min() >= 1
        assert batch.lengths.max() <= steps
        assert not task.output_spec.every_step or batch.mask is not None


def test_the_keys_of_the_file_are_those_of_the_constructor_with_its_defaults(file):
    written = {key: value for key, value in node(file).items() if key != "_target_"}
    assert written == {name: parameter.default for name, parameter in signature(file).items()}


def test_a_batch_depends_on_nothing_but_settings_seed_split_and_index(file):
    calls = [(split, index) for split in ("train", "val", "test") for index in range(4)]
    one, other = make(file), make(file)
    forward = {call: one.batch(*call, 16) for call in calls}
    next(iter(other.evaluation("val")))
    for split, index in sorted(calls, key=lambda call: (-call[1], call[0])):
        assert same(forward[split, index], other.batch(split, index, 16)), (split, index)


def test_data_do_not_touch_the_global_generator(file):
    before = torch.get_rng_state()
    make(file).batch("train", 0, 16)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("endless", [False, True])
def test_seeds_splits_and_indices_give_different_data(file, endless):
    make_generated(file)
    if endless and "train_size" not in signature(file):
        pytest.skip("no key train_size")
    changes = {"train_size": None} if endless else {}
    batches = [
        make(file, **changes).batch("train", 0, 16),
        make(file, **changes).batch("train", 1, 16),
        make(file, **changes).batch("val", 0, 16),
        make(file, **changes).batch("test", 0, 16),
        make(file, seed=1, **changes).batch("train", 0, 16),
        make(file, seed=1, **changes).batch("val", 0, 16),
    ]
    for i, batch in enumerate(batches):
        assert not any(same(batch, other) for other in batches[:i])


def test_an_epoch_visits_every_training_example_once_and_in_an_order_of_its_own(file):
    task = make_fixed(file)
    whole = list(task.evaluation("train"))
    assert sum(len(batch.inputs) for batch in whole) == 30
    epochs = [task.batch("train", 0, 30), task.batch("train", 1, 30)]
    assert examples(epochs[0]) == examples(epochs[1]) == examples(*whole)
    assert not same(*epochs)


@pytest.mark.parametrize("batch_size", [7, 16, 75])
def test_batches_go_on_from_one_epoch_into_the_next(file, batch_size):
    task = make_fixed(file)
    epochs = [task.batch("train", index, 30) for index in range(8)]
    stream = Batch(*(torch.cat(tensors) if tensors[0] is not None else None for tensors in zip(*epochs, strict=True)))
    for index in range(len(stream.inputs) // batch_size):
        expected = stream.take(slice(index * batch_size, (index + 1) * batch_size))
        assert same(task.batch("train", index, batch_size), expected), index


def test_without_a_training_set_every_batch_is_fresh(file):
    if "train_size" not in signature(file):
        pytest.skip("no key train_size")
    task, twin = make(file, train_size=None), make(file, train_size=None)
    batches = [task.batch("train", index, 16) for index in range(3)]
    assert all(same(twin.batch("train", index, 16), batches[index]) for index in (2, 0, 1))
    assert not same(batches[0], batches[1])
    assert not same(batches[1], batches[2])
    assert sum(len(batch.inputs) for batch in task.evaluation("train")) == SMALL["val_size"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_gives_the_whole_set_in_the_same_order(file, split):
    task = make_generated(file)
    task.evaluation_batch_size = 16
    first, again = list(task.evaluation(split)), list(task.evaluation(split))
    size = task.sizes[split]
    assert [len(batch.inputs) for batch in first] == [16] * (size // 16) + [size % 16]
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert examples(*first) == examples(task.batch(split, 0, size))


def test_loss_metrics_and_picture_agree_with_the_specs(file):
    task = make(file)
    batch, output = answered(task, task.batch("val", 0, 5))
    check(task, batch)
    if batch.rewards is None:  # for episodes, see tests/tasks/test_environment.py
        output.prediction.requires_grad_()
        step = task.loss(lambda *_, **__: output, batch)
        assert step.loss.shape == ()
        (gradient,) = torch.autograd.grad(step.loss, output.prediction)
        assert gradient.abs().sum() > 0
        means = averages(task.metrics(output._replace(prediction=output.prediction.detach()), batch))
        assert means[task.loss_name] == pytest.approx(step.losses[task.loss_name].item(), rel=1e-6)
    with torch.no_grad():
        metrics = task.metrics(output, batch)
        assert task.objective.metric in metrics
        for row in range(5):
            line = task.render(batch, row, output)
            assert line
            assert "\n" not in line
            assert len(task.labels(batch, row)) == batch.inputs.shape[1]
    assert set(task.averaged(averages(metrics))) >= set(metrics)
    assert all(total.shape == () and total.isfinite() and count >= 0 for total, count in metrics.values())


def test_every_choice_works_and_has_floors_worst_first(file):
    for change in variants(file):
        task = make(file, **change)
        batch, output = answered(task, task.batch("train", 0, 8))
        check(task, batch)
        metrics = task.metrics(output, batch)
        assert task.objective.metric in metrics, change
        assert task.render(batch, 0, output)
        for description, floor in task.floors.items():
            assert floor, (change, description)
            assert set(floor) <= set(metrics), (change, description)
        chance = task.floors.get("chance", {})
        if "nll" in chance:
            nll = task.criterion(torch.zeros_like(output.prediction), batch)
            assert chance["nll"] == pytest.approx(float(nll), rel=1e-5), change
        if "error" in chance and task.output_spec.kind == "class":
            assert chance["error"] == pytest.approx(1 - 1 / task.output_spec.size), change
        metric, sign = task.objective.metric, -1 if task.objective.higher_is_better else 1
        values = [sign * floor[metric] for floor in task.floors.values() if metric in floor]
        assert all(worse >= better - 1e-9 for worse, better in itertools.pairwise(values)), (change, values)
