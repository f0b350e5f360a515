"""Playing and learning from episodes, compared with a plain loop that plays step by step with gradients.

Shapes: B environments, T actions, A actions to choose from.
"""

from functools import partial
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from src.benchmarks.episodes import plainly
from src.config.compose import compose
from src.models.attention import Attention
from src.models.deltanet import DeltaNet
from src.models.fastweights import FastWeights
from src.models.lstm import LSTM
from src.models.rnn import RNN
from src.models.sequence import SequenceModel
from src.running.build import build_trainer
from src.running.examples import show_examples
from src.tasks.catch import Catch
from src.tasks.environment import drawn
from src.training.curves import Curves
from src.training.progress import RunProgress
from tests.training.test_population import same_after, update_of

CORES = {
    "rnn": RNN,
    "lstm": LSTM,
    "fastweights": FastWeights,
    "fastweights in steps": partial(FastWeights, kernel="reference"),
    "attention": Attention,
    "deltanet": DeltaNet,
}
"""Some of them return their state even if it is not requested, and some do not."""
SMALL = ["task=catch", "task.size=6", "task.visible_frames=3", "task.val_size=20", "task.test_size=20"]
SMALL += ["network.expansion_size=8", "model.hidden_size=8", "trainer.batch_size=4"]


def in_float64(task):
    """Make observations and rewards float64."""
    observe, act = task.observe, task.act
    task.observe = lambda game: observe(game).double()

    def act_in_float64(game, action_B):
        game, reward_B = act(game, action_B)
        return game, reward_B.double()

    task.act = act_in_float64
    return task


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("visible", [1, 3, 5])
def test_losses_actions_and_all_gradients_are_those_of_the_plain_loop(core, visible):
    task = in_float64(Catch(0, size=6, visible_frames=visible, discount=0.9, value_weight=0.7, entropy_weight=0.3))
    torch.manual_seed(1)
    make_core = partial(CORES[core], hidden_size=8)
    model = SequenceModel(task.input_spec, task.output_spec, make_core, expansion_size=9).double()
    batch = task.batch("train", 3, 40)
    batch = batch._replace(targets=batch.targets.double())
    step = task.loss(model, batch)
    losses, action_BT = plainly(task, model, batch)
    assert torch.equal(step.played.targets, action_BT)
    assert len(action_BT.unique()) == 3
    assert step.losses.keys() == losses.keys()
    parameters = list(model.parameters())
    for name, loss in losses.items():
        assert_close(step.losses[name], loss, rtol=1e-10, atol=1e-10)
        ours, theirs = (torch.autograd.grad(one, parameters, retain_graph=True) for one in (step.losses[name], loss))
        assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_returns_are_not_rounded_by_autocast():
    task = Catch(0, size=24, discount=0.97)
    reward_BT = torch.rand(3, task.num_steps)
    expected_BT = task.returns(reward_BT)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(task.returns(reward_BT), expected_BT)


def test_an_action_is_drawn_where_the_cumulative_distribution_passes_a_number():
    logits_BA = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(6, 3)
    assert drawn(logits_BA, torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 1.0 - 2**-24])).tolist() == [0, 0, 1, 1, 2, 2]
    share_A = drawn(logits_BA[:1].expand(10_000, 3), (torch.arange(10_000) + 0.5) / 10_000).bincount() / 10_000
    assert_close(share_A, torch.tensor([0.2, 0.5, 0.3]), rtol=0, atol=2e-4)
    assert drawn(torch.tensor([[-torch.inf, 0.0, -torch.inf]]), torch.tensor([0.0])).tolist() == [1]


def fit(folder, stop_at=None):
    """Train in a folder, from its checkpoint if there is one, and stop after some updates."""
    config = compose(*SMALL, "model=fastweights", "trainer.max_updates=6", "trainer.eval_every=3")
    trainer = build_trainer(config, folder, "")
    resumed = trainer.checkpoints.resume(trainer.state)

    def stop():
        trainer.stop_requested = trainer.state.update == stop_at

    with Curves(folder, trainer.state.update + 1 if resumed else 0) as curves, RunProgress(6, 0) as progress:
        outcome = trainer.fit(curves, progress, stop)
        if resumed and outcome.status == "finished":
            show_examples(trainer, curves)
    return trainer


def test_a_resumed_run_plays_the_same_episodes_to_the_last_bit_and_leaves_films(tmp_path):
    undisturbed = fit(tmp_path / "a")
    fit(tmp_path / "b", stop_at=2)
    resumed = fit(tmp_path / "b")
    assert torch.equal(undisturbed.update.weights, resumed.update.weights)
    assert undisturbed.outcome.metrics == resumed.outcome.metrics
    assert {"val/return", "val/entropy", "test/return", "test/entropy"} == set(resumed.outcome.metrics)
    best, last = resumed.state.selected.metrics["return"], (Path(tmp_path) / "b" / "metrics.jsonl").read_text()
    assert f'"val/return": {best}' in last
    events = EventAccumulator(str(tmp_path / "b")).Reload()
    tags = events.Tags()
    assert {f"train/loss/{part}" for part in ("policy", "value", "entropy")} <= set(tags["scalars"])
    assert {"visualization/episode_0", "visualization/episode_1", "visualization/attention"} <= set(tags["images"])


def test_runs_that_play_together_are_those_that_play_alone():
    settings = [[], ["seed=1", "optimizer.lr=1e-2"]]
    alone, together = ([update_of("model=lstm", *SMALL, *one) for one in settings] for _ in range(2))
    for update in (*alone, *together):
        in_float64(update.task)
    same_after(3, alone, together)
    assert torch.equal(alone[1].last().step.played.targets, together[1].last().step.played.targets)
