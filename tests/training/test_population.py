"""Several runs trained as one program: each has the result that it would have alone."""

import gc
import weakref

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from src.config.schema import TrainerSettings
from src.models.sequence import SequenceModel
from src.running.build import build_model, build_task
from src.training.evaluation import StackedEvaluation, evaluate
from src.training.fast_updates import flat_parameters
from src.training.graphs import WARM_UP
from src.training.optimizers import adam, rmsprop, sgd
from src.training.population import Stacked, signature
from src.training.run_checkpoints import RunCheckpoints
from src.training.schedulers import constant
from src.training.stacked_optimizer import StackedOptimizer
from src.training.state import TrainState
from src.training.trainer import Trainer
from src.training.update import Update
from tests.compose import compose
from tests.models.cores import FILES
from tests.training.tape import TapeRecorder
from tests.training.test_trainer import SETTINGS, Accumulator, Sums

MODELS = [path.stem for path in FILES]
SMALL = ["task.train_size=200", "trainer.batch_size=8", "model.hidden_size=8", "trainer.max_updates=100"]
TASKS = {"bilinear": ["task=hadamard_product", "task.vector_size=8", "network.head=false"]}
DIFFERENT = [
    ["seed=0"],
    ["seed=1", "optimizer.lr=3e-3", "trainer.clip_norm=0.1", "trainer.norm_stabilizer=0.5"],
    ["seed=1", "optimizer.weight_decay=0.1", "trainer.clip_norm=null", "scheduler=constant"],
]
OWN = {
    "fastweights": [["model.decay=0.9"], ["model.fast_lr=0.3"], ["model.recurrent_scale=0.5"]],
    "cp_gate": [["model.gate_bias=0.5"], ["model.gate_bias=0.5"], ["model.gate_bias=-1.0"]],
}


def update_of(*overrides):
    """The update of a run, in float64."""
    config = compose(*overrides)
    task = build_task(config)
    batch = task.batch

    def in_float64(*arguments):
        return batch(*arguments).map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)

    task.batch = in_float64
    torch.manual_seed(config.seed)
    model = build_model(config, task).double()
    settings = TrainerSettings(**OmegaConf.to_container(config.trainer, resolve=True))
    model.return_sequence |= settings.norm_stabilizer > 0
    optimizer = instantiate(config.optimizer, [flat_parameters(model)], _convert_="all")
    scheduler = instantiate(config.scheduler, optimizer, config.trainer.max_updates)
    return Update(TrainState(model, optimizer, scheduler, torch.zeros((), dtype=torch.float64)), task, settings)


def population(*overrides, own=((), (), ())):
    stabilized = [f"trainer.norm_stabilizer={strength}" for strength in (0.1, 0.5, 0.2)]
    each = zip(DIFFERENT, own, stabilized, strict=True)
    return [update_of(*overrides, *SMALL, *settings, *more, strength) for settings, more, strength in each]


def same_after(num_updates, alone, together):
    """Check that each run moves in a population as it does alone, up to 1e-9 of the distance moved."""
    starts = [update.weights.detach().clone() for update in alone]
    stacked = Stacked(together)
    for _ in range(num_updates):
        stacked()
        for update in alone:
            update()
    for one, other, start in zip(alone, together, starts, strict=True):
        way = (one.weights - start).norm()
        assert way > 0
        assert (one.weights - other.weights).norm() < 1e-9 * way
        own, theirs = one.last(), other.last()
        assert theirs.lr == own.lr
        for ours, found in ((own.norm, theirs.norm), (own.step.loss, theirs.step.loss)):
            torch.testing.assert_close(found, ours, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(theirs.step.output.prediction, own.step.output.prediction)
        torch.testing.assert_close(other.state.sum_of_norms, one.state.sum_of_norms)
        assert torch.equal(theirs.batch.inputs, own.batch.inputs)
        assert other.state.update == one.state.update == num_updates


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("fastweights", "auto"),
        ("sparse_rnn", "reference"),
        *(pytest.param(name, "auto", marks=pytest.mark.slow) for name in MODELS),
    ],
)
def test_a_population_equals_its_runs_alone(name, kernel):
    settings = [f"model={name}", f"model.kernel={kernel}", *TASKS.get(name, [])]
    runs = [population(*settings, own=OWN.get(name, [()] * 3)) for _ in range(2)]
    assert len({signature(update) for update in runs[0]}) == 1
    same_after(50, *runs)


EVALUATED = ["task=associative_retrieval", "task=selective_copying", "task=addition"]


@pytest.mark.parametrize("task", [EVALUATED[0], *(pytest.param(one, marks=pytest.mark.slow) for one in EVALUATED[1:])])
def test_the_runs_of_a_population_are_evaluated_as_each_alone(task, monkeypatch):
    sizes = ["task.val_size=30", "task.test_size=30", *(["task.train_size=200"] if "catch" not in task else [])]
    runs = [
        update_of("model=rnn", task, "model.hidden_size=8", "trainer.batch_size=8", *sizes, f"seed={n}")
        for n in range(3)
    ]
    for update in runs:
        in_float64(update.task, monkeypatch)
        update.state.model.train()
    stacked, calls = Stacked(runs), []
    stacked()
    expected = [evaluate(update.state.model, update.task, "val") for update in runs]
    evaluation = StackedEvaluation(stacked)
    compute = evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", lambda: calls.append(1) or compute())
    found = [evaluation.of(row) for row in range(3)]
    assert evaluation.possible
    assert found == [pytest.approx(metrics, rel=1e-9) for metrics in expected]
    assert len({tuple(metrics.values()) for metrics in found}) == 3
    assert len(calls) == 1
    stacked()
    assert evaluation.of(2) != found[2]
    assert stacked.one.training


def in_float64(task, monkeypatch):
    batches = task.evaluation

    def converted(split):
        for batch in batches(split):
            yield batch.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)

    monkeypatch.setattr(task, "evaluation", converted)


def test_where_one_program_fails_each_is_evaluated_alone(monkeypatch, caplog):
    stacked = Stacked(population("model=irnn"))
    evaluation = StackedEvaluation(stacked)
    monkeypatch.setattr(stacked, "evaluated", lambda *_: 1 / 0)
    with caplog.at_level("INFO"):
        found = [evaluation.of(row) for row in range(3)]
    assert found == [evaluate(update.state.model, update.task, "val") for update in stacked.updates]
    said = [message for message in caplog.messages if "one by one" in message]  # others may report compiled kernels
    assert said == ["3 runs are evaluated one by one: ZeroDivisionError: division by zero"]


@pytest.mark.parametrize(
    ("optimizer", "different"),
    [
        ("sgd", ["momentum=0.9", "momentum=0.5", "momentum=0.8"]),
        ("rmsprop", ["alpha=0.9", "alpha=0.99", "eps=1e-6"]),
        ("rmsprop", ["momentum=0.9", "momentum=0.5", "momentum=0.8"]),
    ],
)
def test_populations_of_each_optimizer(optimizer, different):
    settings = [[f"optimizer.{setting}"] for setting in different]
    same_after(10, *(population("model=irnn", f"optimizer={optimizer}", own=settings) for _ in range(2)))


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (adam, [{"lr": 0.1}, {"lr": 0.01, "weight_decay": 0.1}, {"betas": [0.5, 0.9], "eps": 1e-4}]),
        (sgd, [{"lr": 0.1}, {"lr": 0.01, "weight_decay": 0.1}, {}]),
        (sgd, [{"momentum": 0.9, "nesterov": True}, {"momentum": 0.5, "nesterov": True}]),
        (rmsprop, [{"lr": 0.1}, {"alpha": 0.5, "weight_decay": 0.1}]),
    ],
)
@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_step_of_all_rows_is_the_step_of_each(make, settings, steps_before):
    gradients_PN = torch.randn(8, len(settings), 5, dtype=torch.float64)
    alone, together = [], []
    for which in (alone, together):
        for row, chosen in enumerate(settings):
            weights = nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
            which.append(make([weights], **chosen))
            for gradient_PN in gradients_PN[:steps_before]:
                weights.grad = gradient_PN[row]
                which[-1].step()
    weights_PN = torch.stack([one.param_groups[0]["params"][0].detach() for one in together])
    gradient_PN = torch.zeros_like(weights_PN)
    for row, optimizer in enumerate(together):
        (weights,) = optimizer.param_groups[0]["params"]
        weights.data, weights.grad = weights_PN[row], gradient_PN[row]
    stacked = StackedOptimizer(together, weights_PN, gradient_PN)
    for now_PN in gradients_PN[steps_before:]:
        gradient_PN.copy_(now_PN)
        for row, optimizer in enumerate(alone):
            optimizer.param_groups[0]["params"][0].grad = now_PN[row]
            optimizer.step()
            optimizer.param_groups[0]["lr"] *= 0.9
        stacked.read_settings()
        stacked.step()
        for optimizer in together:
            optimizer.param_groups[0]["lr"] *= 0.9
    for one, row_N, other in zip(alone, weights_PN, together, strict=True):
        torch.testing.assert_close(row_N, one.param_groups[0]["params"][0].detach(), rtol=1e-12, atol=1e-14)
        own, theirs = one.state_dict()["state"], other.state_dict()["state"]
        assert own.keys() == theirs.keys()
        for key in own.get(0, {}):
            torch.testing.assert_close(theirs[0][key], own[0][key], rtol=1e-12, atol=1e-14)


def test_an_optimizer_without_a_step_of_all_rows_is_refused():
    """If the optimizers took their steps one by one, a recording would freeze their learning rates."""
    alone = torch.optim.Adagrad([nn.Parameter(torch.zeros(3))])
    with pytest.raises(AttributeError, match="step_rows"):
        StackedOptimizer([alone], torch.zeros(1, 3), torch.zeros(1, 3))


def test_a_run_that_diverges_leaves_the_others_alone():
    alone, together = (
        population("model=irnn", "optimizer=sgd", own=((), ["optimizer.lr=1e200"], ())) for _ in range(2)
    )
    stacked = Stacked(together)
    for _ in range(5):
        stacked()
    assert not together[1].state.sum_of_norms.isfinite()
    for number in (0, 2):
        for _ in range(5):
            alone[number]()
        torch.testing.assert_close(together[number].weights, alone[number].weights, rtol=1e-12, atol=1e-14)


def test_a_run_goes_on_alone_and_back():
    alone, together = (population("model=irnn") for _ in range(2))
    Stacked(together)()
    for update in together:
        update()
    Stacked(together[1:])()
    for number, update in enumerate(alone):
        for _ in range(2 + (number > 0)):
            update()
        torch.testing.assert_close(together[number].weights, update.weights, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(together[number].last().norm, update.last().norm)


def test_it_is_freed_as_soon_as_it_is_closed():
    together, recorder = population("model=irnn"), TapeRecorder()
    for update in together:
        update.replay_with(recorder)
    stacked = Stacked(together)
    for _ in range(WARM_UP + 1):
        stacked()
    assert recorder.recorded == 1
    freed = weakref.ref(stacked)
    gc.disable()
    try:
        stacked.close()
        del stacked
        assert freed() is None
    finally:
        gc.enable()


def carrying(path, lr, start, make_core=Accumulator, seed=0):
    task = Sums(carries_state=True)
    torch.manual_seed(seed)
    model = SequenceModel(task.input_spec, task.output_spec, make_core)
    optimizer = sgd([flat_parameters(model)], lr=lr)
    trainer = Trainer(model, task, optimizer, constant(optimizer, 20), SETTINGS, RunCheckpoints(path, "00000000", ""))
    for _ in range(start):
        trainer.do_update()
    return trainer.update


class Counting(Accumulator):
    """h_t = w h_{t-1} + c x_t, where c is not trained; counts the sequences that it computes."""

    def __init__(self, input_size):
        super().__init__(input_size)
        self.scale = nn.Parameter(torch.randn(()), requires_grad=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def recorded_scan(self, p_BTP, state):
        self.count += len(p_BTP)
        return super().recorded_scan(self.scale * p_BTP, state)


def test_each_run_has_its_own_frozen_weights_and_buffers(tmp_path):
    alone, together = ([carrying(tmp_path, 0.1, 0, Counting, seed) for seed in (1, 2)] for _ in range(2))
    stacked = Stacked(together)
    for _ in range(2):
        stacked()
        for update in alone:
            update()
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other.state.model.state_dict(), one.state.model.state_dict())


@pytest.mark.usefixtures("made_up_data")
def test_fast_weights_of_different_decay_that_carry_their_memory():
    overrides = ("task=language_model", "task.window=5", *SMALL[1:], "model=fastweights", "model.kernel=vectorized")
    alone, together = ([update_of(*overrides, f"model.decay={decay}") for decay in (0.9, 0.95)] for _ in range(2))
    same_after(3, alone, together)


def test_runs_at_different_updates_that_carry_a_state(tmp_path):
    alone, together = ([carrying(tmp_path, 0.1, 0), carrying(tmp_path, 0.2, 3)] for _ in range(2))
    together[1].task = together[0].task  # the same task and seed, but batches of different updates
    stacked = Stacked(together)
    for _ in range(4):
        stacked()
        for update in alone:
            update()
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other.weights, one.weights)
        torch.testing.assert_close(other.state.recurrent, one.state.recurrent)
        torch.testing.assert_close(other.last().step.loss, one.last().step.loss)
    assert [update.state.update for update in together] == [4, 7]


def test_runs_that_carry_a_state_are_evaluated_with_it_and_in_float32(tmp_path):
    updates = [carrying(tmp_path, 0.1, 0, seed=seed) for seed in (1, 2)]
    for update in updates:
        update.task.evaluation_batch_size = 4  # two batches for 8 examples
    expected = [evaluate(update.state.model, update.task, "val") for update in updates]
    stacked = Stacked(updates)
    stacked.one.precision = "bfloat16"
    evaluation = StackedEvaluation(stacked)
    assert [evaluation.of(row) for row in range(2)] == [pytest.approx(metrics) for metrics in expected]
    assert evaluation.possible
    assert stacked.one.precision == "bfloat16"


@pytest.mark.usefixtures("made_up_data")
def test_runs_of_which_only_some_have_a_mask():
    """The last of 33 windows is shorter, and the batch of 11 with this window comes at a different time in each run."""
    overrides = ("task=polyphonic_music", "task.stream=true", "task.window=7", "trainer.batch_size=11", "model=rnn")
    alone, together = ([update_of(*SMALL[1:], *overrides, f"seed={seed}") for seed in range(2)] for _ in range(2))
    stacked, patterns = Stacked(together), set()
    for _ in range(12):
        patterns.add(tuple(update.next_batch().mask is None for update in alone))
        stacked()
        for one in alone:
            one()
    assert (True, False) in patterns or (False, True) in patterns
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other.weights, one.weights)


@pytest.mark.usefixtures("made_up_data")
def test_runs_at_different_updates_of_which_only_some_begin_an_epoch():
    def updates():
        made = [update_of("task=language_model", *SMALL[1:], "model=rnn", f"seed={seed}") for seed in range(2)]
        for start, update in zip((1, 2), made, strict=True):
            for _ in range(start):
                update()
        return made

    alone, together = updates(), updates()
    stacked, patterns = Stacked(together), set()
    for _ in range(alone[0].task.num_windows(len(alone[0].task.symbols("train")), alone[0].settings.batch_size) + 2):
        patterns.add(tuple(update.next_batch().resets is None for update in alone))
        stacked()
        for one in alone:
            one()
    assert (True, False) in patterns
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other.weights, one.weights)


def test_a_checkpoint_holds_one_run():
    together = population("model=irnn")
    Stacked(together)()
    content = together[1].state.to_checkpoint()
    size = sum(tensor.untyped_storage().nbytes() for tensor in content["model"].values())
    assert size == 8 * together[1].weights.numel()


def test_what_runs_must_have_in_common():
    of = {name: signature(update_of("model=fastweights", *SMALL, *name.split())) for name in (
        "seed=0", "seed=1 model.decay=0.5 optimizer.weight_decay=0.1 optimizer.betas=[0.5,0.9]", "model.fast_lr=0.0",
        "model.num_inner_steps=2", "model.nonlinearity=tanh", "model.hidden_size=9", "optimizer=sgd",
        "optimizer=sgd optimizer.momentum=0.9", "optimizer=sgd optimizer.momentum=0.9 optimizer.nesterov=true",
    )}  # fmt: skip
    first, second, *others = of.values()
    assert first == second
    assert len({first, *others}) == 1 + len(others)


def test_a_setting_without_a_hash_is_had_in_common_by_none():
    updates = [update_of("model=irnn", *SMALL) for _ in range(2)]
    for update in updates:
        update.state.model.core.windows = ([1, 2], [3])
    assert len({signature(update) for update in updates}) == 2
