"""The training loop: what it selects, when it stops, what it reports, and which state it carries over."""

import dataclasses

import numpy as np
import optree
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from src.config.paths import CONFIGS
from src.config.schema import TrainerSettings
from src.models.base import Core
from src.models.sequence import SequenceModel
from src.ops.dispatch import Form, plain
from src.running.build import build_trainer
from src.specs import Batch, InputSpec, Objective, Output, OutputSpec
from src.tasks import base as tasks
from src.tasks.base import Task
from src.training.evaluation import Averages, evaluate
from src.training.fast_updates import flat_parameters
from src.training.optimizers import adam, rmsprop, sgd
from src.training.regularizers import norm_stabilizer
from src.training.run_checkpoints import RunCheckpoints
from src.training.schedulers import constant
from src.training.trainer import Trainer
from src.training.update import loss_of

SETTINGS = TrainerSettings(
    max_updates=20, batch_size=4, eval_every=5, log_every=1, checkpoint_every=5, clip_norm=None, norm_stabilizer=0.0,
    weight_noise=0.0, stop_at=None, patience=None, threads=1, precision="float32", histograms=False,
    deterministic=False, overfit_one_batch=False, detect_anomaly=False, profile_updates=0,
)  # fmt: skip


class Recorder:
    """Stands in for the curves and the progress bar, and records what they receive."""

    def __init__(self):
        self.points = {}

    def scalars(self, group, values, update):
        for name, value in values.items():
            self.points.setdefault(f"{group}/{name}", []).append((update, value))

    def trained(self, values, losses, update):
        self.scalars("train", values, update)

    def selected(self, val, selected_update, test, update):
        self.scalars("val_selected", {**val, "update": selected_update}, update)
        self.scalars("test", test, update)

    def __getattr__(self, name):
        return lambda *arguments: None


class Sums(Task):
    """The sum of the numbers of a sequence so far; with `carries_state`, the state is carried from batch to batch."""

    input_spec = InputSpec("vectors", 1)
    output_spec = OutputSpec("value", 1, every_step=True)
    objective = Objective("mse")
    floors = {"always 0": {"mse": 1.0}}  # noqa: RUF012

    def __init__(self, seed=0, num_examples=8, carries_state=False):
        super().__init__(seed, train_size=None, val_size=num_examples, test_size=num_examples)
        self.carries_state = carries_state

    def generate(self, num_examples, generator):
        inputs = torch.randn(num_examples, 3, 1, generator=generator)
        return Batch(inputs, inputs.cumsum(1))

    def render(self, batch, row, output):
        return ""


class Accumulator(Core):
    """h_t = w h_{t-1} + x_t."""

    def __init__(self, input_size):
        super().__init__(input_size, 1)
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.starts = []

    def initial_state(self, batch_size):
        return self.zeros(batch_size, 1)

    def forms(self):
        yield Form("vectorized", plain(self.recorded_scan))

    def recorded_scan(self, p_BTP, state):
        self.starts.append(None if state is None else state.detach().clone())
        return self.scan(p_BTP, state)

    def step(self, p_BP, state):
        h_BH = self.weight * state + p_BP
        return h_BH, h_BH


def trainer_of(task, tmp_path, lr=0.1, make_optimizer=sgd, **changes):
    torch.manual_seed(0)
    model = SequenceModel(task.input_spec, task.output_spec, Accumulator)
    optimizer = make_optimizer([flat_parameters(model)], lr=lr)
    settings = dataclasses.replace(SETTINGS, **changes)
    return Trainer(
        model,
        task,
        optimizer,
        constant(optimizer, settings.max_updates),
        settings,
        RunCheckpoints(tmp_path, "00000000", ""),
    )


@pytest.fixture
def scripted(monkeypatch):
    """Make the validation objective take the given values, one per evaluation; on the test set it is 99."""

    def arrange(values):
        remaining = iter(values)
        monkeypatch.setattr(
            "src.training.trainer.evaluate",
            lambda model, task, split: {"mse": next(remaining) if split == "val" else 99.0},
        )

    return arrange


def test_the_selected_weights_are_those_of_the_first_best_validation(tmp_path, scripted):
    scripted([5.0, 3.0, 2.0, 2.0, 4.0])
    trainer = trainer_of(Sums(), tmp_path)
    at_update = {0: float(trainer.model.core.weight.detach())}
    outcome = trainer.fit(
        Recorder(),
        Recorder(),
        lambda: at_update.update({trainer.state.update: float(trainer.model.core.weight.detach())}),
    )
    assert trainer.state.selected.update == 10
    assert float(trainer.model.core.weight.detach()) == at_update[10] != at_update[20]
    assert outcome.metrics == {"val/mse": 2.0, "test/mse": 99.0}
    assert outcome.reason == "all 20 updates done"


def test_stop_at_ends_the_run_at_the_evaluation_that_reaches_it(tmp_path, scripted):
    scripted([5.0, 3.0, 1.0, 0.5, 0.1])
    trainer = trainer_of(Sums(), tmp_path, stop_at=1.0)
    assert trainer.fit(Recorder(), Recorder()).status == "finished"
    assert trainer.state.update == trainer.state.selected.update == 10


def test_patience_counts_evaluations_since_the_best_one(tmp_path, scripted):
    scripted([5.0, 3.0, 4.0, 3.0, 1.0])
    trainer = trainer_of(Sums(), tmp_path, patience=2)
    outcome = trainer.fit(Recorder(), Recorder())
    assert (trainer.state.update, trainer.state.selected.update) == (15, 5)
    assert outcome.reason == "no better val/mse since update 5"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("make_optimizer", [adam, rmsprop, sgd])
def test_a_single_gradient_that_is_not_finite_is_found_at_the_next_evaluation(
    tmp_path, make_optimizer, clip_norm, value
):
    trainer = trainer_of(Sums(), tmp_path, make_optimizer=make_optimizer, clip_norm=clip_norm)
    trainer.model.core.weight.register_hook(lambda g: torch.full_like(g, value) if trainer.state.update == 6 else g)
    outcome = trainer.fit(Recorder(), Recorder())
    assert outcome.status == "diverged"
    assert outcome.reason == "a gradient between updates 6 and 10 is not finite"


@pytest.mark.parametrize(
    ("max_updates", "where"), [(8, "a gradient between updates 6 and 8"), (6, "the gradient of update 6")]
)
def test_a_divergence_in_the_last_updates_is_placed_after_the_last_evaluation(tmp_path, max_updates, where):
    trainer = trainer_of(Sums(), tmp_path, max_updates=max_updates)
    trainer.model.core.weight.register_hook(lambda g: g * torch.nan if trainer.state.update >= 5 else g)
    assert trainer.fit(Recorder(), Recorder()).reason == f"{where} is not finite"


@pytest.mark.parametrize("log_every", [1, 3, 20])
@pytest.mark.parametrize("stop", [None, 6, 7, 9])
def test_neither_logging_nor_an_interruption_moves_a_divergence(tmp_path, log_every, stop):
    """The gradient of update 7 is not finite; the run may be stopped and resumed before that is noticed."""

    def made():
        trainer = trainer_of(Sums(), tmp_path, log_every=log_every, checkpoint_every=2)
        trainer.model.core.weight.register_hook(
            lambda g: torch.full_like(g, float("nan")) if trainer.state.update == 6 else g.nan_to_num()
        )
        return trainer

    trainer = made()
    trainer.checkpoints.resume(trainer.state)
    trainer.fit(Recorder(), Recorder(), lambda: setattr(trainer, "stop_requested", trainer.state.update == stop))
    if stop is not None:
        trainer = made()
        assert trainer.checkpoints.resume(trainer.state)
        assert trainer.state.update == stop
    outcome = trainer.fit(Recorder(), Recorder())
    assert (outcome.status, trainer.state.update) == ("diverged", 10)
    assert outcome.reason == "a gradient between updates 6 and 10 is not finite"


def test_a_higher_objective_is_better_if_the_task_says_so(tmp_path, scripted, monkeypatch):
    monkeypatch.setattr(Sums, "objective", Objective("mse", higher_is_better=True))
    scripted([1.0, 3.0, float("nan"), 3.0, 2.0])
    trainer = trainer_of(Sums(), tmp_path)
    trainer.fit(Recorder(), Recorder())
    assert trainer.state.selected.update == 5
    scripted([1.0, 3.0, 4.0, 5.0, 6.0])
    trainer = trainer_of(Sums(), tmp_path, stop_at=3.5)
    trainer.fit(Recorder(), Recorder())
    assert (trainer.state.update, trainer.state.outcome.metrics["val/mse"]) == (10, 4.0)


def test_a_first_evaluation_that_is_nan_is_never_selected(tmp_path, scripted):
    scripted([float("nan"), float("nan"), 3.0, 2.0, 4.0])
    trainer = trainer_of(Sums(), tmp_path)
    trainer.fit(Recorder(), Recorder())
    assert (trainer.state.selected.update, trainer.state.outcome.metrics["val/mse"]) == (15, 2.0)


def test_the_parts_of_the_loss_are_logged_by_name(tmp_path):
    single, several = Recorder(), Recorder()
    trainer_of(Sums(), tmp_path / "single").fit(single, Recorder())
    trainer_of(Sums(), tmp_path / "several", norm_stabilizer=2.0).fit(several, Recorder())
    assert not [tag for tag in single.points if tag.startswith("train/loss/")]
    parts = [several.points[f"train/loss/{name}"] for name in ("mse", "norm_stabilizer")]
    for (_, total), *values in zip(several.points["train/loss"], *parts, strict=True):
        assert total == pytest.approx(sum(value for _, value in values))


def test_the_logged_gradient_norm_is_that_before_clipping(tmp_path):
    free, clipped = Recorder(), Recorder()
    trainer_of(Sums(), tmp_path / "free", lr=0.0).fit(free, Recorder())
    trainer_of(Sums(), tmp_path / "clipped", lr=0.0, clip_norm=1e-6).fit(clipped, Recorder())
    before, after = (np.array(recorder.points["train/gradient_norm"]) for recorder in (free, clipped))
    np.testing.assert_allclose(after, before, rtol=1e-6)
    assert before[:, 1].min() > 1e-3


def test_clipping_bounds_the_step(tmp_path):
    trainer = trainer_of(Sums(), tmp_path, lr=1.0, clip_norm=1e-3)
    before = trainer.update.weights.detach().clone()
    trainer.do_update()
    moved = (trainer.update.weights.detach() - before).norm()
    assert float(moved) == pytest.approx(1e-3, rel=1e-3)


def test_a_batch_is_seen_once_at_its_own_update(tmp_path, monkeypatch):
    task = Sums()
    asked = []
    original = task.batch
    monkeypatch.setattr(task, "batch", lambda *arguments: asked.append(arguments) or original(*arguments))
    trainer_of(task, tmp_path).fit(Recorder(), Recorder())
    assert asked == [("train", index, 4) for index in range(20)]


def test_overfitting_sees_one_batch(tmp_path, monkeypatch):
    task = Sums()
    asked = []
    original = task.batch
    monkeypatch.setattr(task, "batch", lambda *arguments: asked.append(arguments) or original(*arguments))
    trainer_of(task, tmp_path, overfit_one_batch=True).fit(Recorder(), Recorder())
    assert set(asked) == {("train", 0, 4)}


def test_the_state_is_carried_from_batch_to_batch_only_if_the_task_says_so(tmp_path):
    alone = trainer_of(Sums(), tmp_path / "alone", lr=0.0)
    alone.do_update()
    alone.do_update()
    assert alone.model.core.starts == [None, None]

    carried = trainer_of(Sums(carries_state=True), tmp_path / "carried", lr=0.0)
    carried.do_update()
    step = carried.update.last().step
    carried.do_update()
    assert carried.model.core.starts[0] is None
    torch.testing.assert_close(carried.model.core.starts[1], step.output.state.detach())


def test_a_carried_state_survives_a_resume(tmp_path):
    whole = trainer_of(Sums(carries_state=True), tmp_path / "whole")
    whole.fit(Recorder(), Recorder())

    first = trainer_of(Sums(carries_state=True), tmp_path / "parts")
    first.fit(Recorder(), Recorder(), lambda: setattr(first, "stop_requested", first.state.update == 7))
    second = trainer_of(Sums(carries_state=True), tmp_path / "parts")
    assert second.checkpoints.resume(second.state)
    assert second.state.update == 7
    torch.testing.assert_close(second.state.recurrent, first.state.recurrent, rtol=0, atol=0)
    second.fit(Recorder(), Recorder())
    assert second.state.outcome == whole.state.outcome


def test_all_of_a_state_is_loaded(tmp_path, scripted):
    scripted([5.0, 3.0, 4.0])
    first = trainer_of(Sums(carries_state=True), tmp_path, make_optimizer=adam)
    first.fit(Recorder(), Recorder(), lambda: setattr(first, "stop_requested", first.state.update == 12))
    assert (first.state.evaluations_since_selected, first.state.selected.update) == (1, 5)
    resumed = trainer_of(Sums(carries_state=True), tmp_path, make_optimizer=adam)
    assert resumed.checkpoints.resume(resumed.state)
    (saved, kind), (loaded, kind_loaded) = (optree.tree_flatten(it.state.to_checkpoint()) for it in (first, resumed))
    assert kind_loaded == kind
    for one, other in zip(saved, loaded, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_a_checkpoint_comes_after_the_evaluation_and_the_curves_of_its_update(tmp_path, monkeypatch):
    """So a run that is killed after a checkpoint loses neither points of its curves nor its selection."""
    trainer, curves, done = trainer_of(Sums(), tmp_path, max_updates=10), Recorder(), []
    monkeypatch.setattr(trainer.checkpoints, "save", lambda state: done.append(("saved", state.update)))
    curves.scalars = lambda group, values, update: done.append((group, update))
    curves.trained = lambda *_: None
    curves.flush = lambda: done.append("flushed")
    trainer.fit(curves, Recorder())
    first = [("val", 0), ("val", 5), "flushed", ("saved", 5)]
    assert done == [*first, ("val", 10), ("val_selected", 10), ("test", 10), "flushed", ("saved", 10)]


def test_evaluation_weighs_examples_equally_whatever_the_batches(monkeypatch):
    task = Sums(num_examples=7)
    model = SequenceModel(task.input_spec, task.output_spec, Accumulator)
    at_once = evaluate(model, task, "val")["mse"]
    task.evaluation_batch_size = 3
    assert [len(batch.inputs) for batch in task.evaluation("val")] == [3, 3, 1]
    assert evaluate(model, task, "val")["mse"] == pytest.approx(at_once, rel=1e-6)


def test_a_metric_of_which_nothing_counts_is_nan():
    averages = Averages(Sums())
    for mse in ((0.5, 2), (0.25, 1)):
        averages.add({"mse": mse, "error": (0.0, 0)})
    assert averages.of_split() == pytest.approx({"mse": 0.25, "error": float("nan")}, nan_ok=True)


def test_evaluation_leaves_dropout_and_mode_alone():
    task = Sums()
    model = SequenceModel(task.input_spec, task.output_spec, Accumulator, input_dropout=0.5)
    model.train()
    assert evaluate(model, task, "val") == evaluate(model, task, "val")
    assert model.training


def test_the_norm_stabilizer_adds_to_the_loss(tmp_path):
    plain, penalized = (trainer_of(Sums(), tmp_path, norm_stabilizer=beta, lr=0.0) for beta in (0.0, 10.0))
    plain.do_update()
    penalized.do_update()
    without, with_penalty = plain.update.last().step, penalized.update.last().step
    norms = without.output.hidden_BTH.norm(dim=2)
    expected = without.loss + 10 * norms.diff(dim=1).square().mean()
    torch.testing.assert_close(with_penalty.loss, expected)


def test_the_norm_stabilizer_goes_up_to_the_last_step_of_a_mask():
    task = Sums()
    batch = task.batch("train", 0, 3)._replace(mask=torch.tensor([[0, 1, 0], [1, 1, 1], [0, 0, 0]]).bool())
    model = SequenceModel(task.input_spec, task.output_spec, Accumulator)
    step = loss_of(model, task, batch, None, stabilizer=10.0)
    expected = 10 * norm_stabilizer(step.output.hidden_BTH, torch.tensor([2, 3, 0]))
    torch.testing.assert_close(step.losses["norm_stabilizer"], expected)


@pytest.mark.parametrize("selects", [True, False], ids=["by selecting", "by masking"])
def test_a_batch_without_a_step_that_counts_changes_nothing(selects, monkeypatch):
    monkeypatch.setattr(tasks, "can_select", lambda tensor: selects)
    task = Sums()
    batch = task.batch("train", 0, 3)._replace(mask=torch.zeros(3, 3, dtype=torch.bool))
    model = SequenceModel(task.input_spec, task.output_spec, Accumulator)
    step = loss_of(model, task, batch, None, stabilizer=10.0)
    step.loss.backward()
    assert {name: loss.item() for name, loss in step.losses.items()} == {"mse": 0, "norm_stabilizer": 0}
    assert all(not parameter.grad.any() for parameter in model.parameters())


def test_weight_noise_is_in_the_gradient_and_not_in_the_weights(tmp_path):
    clean, noisy = (trainer_of(Sums(), tmp_path, weight_noise=noise, lr=0.0) for noise in (0.0, 0.5))
    clean.do_update()
    noisy.do_update()
    assert torch.equal(noisy.update.weights, clean.update.weights)
    assert not torch.allclose(noisy.update.gradient, clean.update.gradient)


def test_output_has_the_shape_the_task_asks_for():
    task = Sums()
    output = SequenceModel(task.input_spec, task.output_spec, Accumulator)(torch.randn(2, 3, 1))
    assert isinstance(output, Output)
    assert output.prediction.shape == (2, 3, 1)
    last = SequenceModel(task.input_spec, OutputSpec("value", 5), Accumulator)(torch.randn(2, 3, 1))
    assert last.prediction.shape == (2, 5)


QUICK = ("fastweights", "gru", "cp_gate")
MODEL_FILES = [
    pytest.param(path.stem, marks=() if path.stem in QUICK else pytest.mark.slow)
    for path in sorted((CONFIGS / "model").glob("*.yaml"))
]


LARGER = {"gla": ["model.key_size=8"]}  # with its 2 key features, a query happens to read values near 0


@pytest.mark.parametrize("model", MODEL_FILES)
def test_an_update_in_bfloat16_is_near_one_in_float32(model, composed, tmp_path):
    near_in_bfloat16(model, LARGER.get(model, []), composed, tmp_path)


def test_that_holds_for_inputs_in_both_types(composed, tmp_path):
    """Under autocast the input of the gate is in float32, since it has been multiplied by a scale."""
    near_in_bfloat16("cp_gate", ["model.weight_norm=true"], composed, tmp_path)


def near_in_bfloat16(model, settings, composed, tmp_path):
    losses, gradients = [], []
    for precision in ("float32", "bfloat16"):
        config = composed(
            f"model={model}",
            "model.hidden_size=8",
            "task.train_size=64",
            f"trainer.precision={precision}",
            *settings,
        )
        trainer = build_trainer(config, tmp_path, "0")
        trainer.update()
        step = trainer.update.last().step
        assert step.output.prediction.dtype == trainer.update.weights.dtype == torch.float32
        losses.append(step.loss.detach())
        gradients.append(trainer.update.weights.grad)
    exact, rounded = gradients
    assert_close(*losses, rtol=0.01, atol=0)
    assert 0 < (rounded - exact).norm() < 0.2 * exact.norm()


def test_a_run_stopped_at_its_first_evaluation_resumes_as_if_it_had_not(tmp_path):
    def changed(**more):
        return trainer_of(Sums(), tmp_path, eval_every=1, patience=1, max_updates=3, lr=0.01, **more)

    first = changed()
    first.stop_rule = lambda update, objective: "now"
    assert first.fit(Recorder(), Recorder()).status == "interrupted"
    second, curves = changed(), Recorder()
    assert second.checkpoints.resume(second.state)
    assert second.state.update == 0
    assert second.fit(curves, Recorder()).reason == "all 3 updates done"
    assert [update for update, _ in curves.points["val/mse"]] == [1, 2, 3]


def test_overfitting_one_batch_starts_it_from_the_same_state_every_time(tmp_path):
    trainer = trainer_of(Sums(carries_state=True), tmp_path, overfit_one_batch=True)
    trainer.model.train()
    for _ in range(3):
        trainer.do_update()
    assert trainer.model.core.starts == [None] * 3
