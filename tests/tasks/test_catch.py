"""Catch: rules, screens, chance and perfect play.

Shapes: B environments, N rows and columns of the screen, T actions.
"""

import math
from types import SimpleNamespace

import pytest
import torch

from src.ops.inputs import Inputs
from src.specs import Batch, Output
from src.tasks.catch import ACTIONS, Catch
from tests.tasks.averages import averages

SIZES = [(16, 3), (24, 5)]
each_size = pytest.mark.parametrize(("size", "visible"), SIZES)
LEFT, STAY, RIGHT_ = range(3)


class Player:
    """Stands in for a network, and decides from all observations so far, [B, T, N, N]."""

    core = SimpleNamespace(state_size=10**6, output_size=1)

    def __init__(self, decide, size):
        self.decide, self.size = decide, size

    def __call__(self, inputs, state=None, return_state=True):
        seen_BTX = inputs.vectors if isinstance(inputs, Inputs) else inputs
        logits_BTA = self.decide(seen_BTX.unflatten(-1, (self.size, self.size)))
        return Output(torch.cat([logits_BTA, torch.zeros_like(logits_BTA[..., :1])], -1), seen_BTX, None)


def perfectly(seen_BTNN):
    """Remembers the first frame, and moves until the paddle is below the ball."""
    ball_B, paddle_B = seen_BTNN[:, 0, 0].argmax(-1), seen_BTNN[:, 0, -1].argmax(-1)
    logits = []
    for _ in range(seen_BTNN.shape[1]):
        right_B = ball_B - paddle_B
        action_B = torch.where(right_B < 0, LEFT, torch.where(right_B > 1, RIGHT_, STAY))
        paddle_B = paddle_B + action_B - 1
        logits.append(100 * torch.nn.functional.one_hot(action_B, 3).float())
    return torch.stack(logits, 1)


def at_random(seen_BTNN):
    return torch.zeros(*seen_BTNN.shape[:2], 3)


def every_start(task):
    """Every column of the ball with every column of the paddle, and random draws that depend only on the paddle."""
    balls, paddles = torch.arange(task.size), torch.arange(task.size - 1)
    starts = torch.cartesian_prod(balls, paddles)
    draws = torch.rand(task.size - 1, task.num_steps, generator=torch.Generator().manual_seed(0))
    return Batch(starts, draws.repeat(task.size, 1))


def returns(task, decide, batch):
    return task.loss(Player(decide, task.size), batch).played.rewards.sum(1)


@each_size
def test_a_perfect_player_catches_every_ball_from_every_start(size, visible):
    task = Catch(0, size=size, visible_frames=visible)
    assert (returns(task, perfectly, every_start(task)) == 1).all()
    assert task.floors["perfect"]["return"] == 1


@each_size
def test_chance_is_four_in_n_above_minus_one(size, visible):
    task = Catch(0, size=size, visible_frames=visible)
    chance = returns(task, at_random, every_start(task)).mean().item()
    assert chance == pytest.approx(-1 + 4 / size)
    assert task.floors["ignores the ball"]["return"] == pytest.approx(chance)
    balls, paddles = task.batch("train", 0, 2000).inputs.unbind(1)
    assert (set(balls.tolist()), set(paddles.tolist())) == (set(range(size)), set(range(size - 1)))
    step = task.loss(Player(at_random, size), task.batch("train", 0, 2000))
    drawn = step.played.rewards.sum(1).mean().item()
    found = averages(task.metrics(step.output, step.played))
    assert found == pytest.approx({"return": drawn, "entropy": math.log(3)})
    # Four standard errors: a return has a standard deviation of at most 0.66 (N = 16). The draws are always the same.
    assert drawn == pytest.approx(chance, abs=4 * 0.66 / 2000**0.5)


@each_size
def test_who_moves_only_while_seeing_reaches_the_floor(size, visible):
    task = Catch(0, size=size, visible_frames=visible)

    def while_seeing(seen_BTNN):
        logits_BTA = perfectly(seen_BTNN)
        logits_BTA[:, visible:] = torch.tensor([0.0, 100.0, 0.0])
        return logits_BTA

    reached = returns(task, while_seeing, every_start(task)).mean().item()
    assert reached == pytest.approx(task.floors["moves only while it sees"]["return"])


@each_size
def test_the_ball_falls_the_paddle_moves_and_then_it_is_dark(size, visible):
    task = Catch(0, size=size, visible_frames=visible)
    batch = task.batch("train", 5, 50)
    played = task.loss(Player(at_random, size), batch).played
    screens = played.inputs.unflatten(-1, (size, size))
    assert screens.shape == (50, size - 1, size, size)
    assert (screens[:, visible:] == 0).all()
    for row, (ball, paddle) in enumerate(batch.inputs.tolist()):
        for t in range(visible):
            expected = torch.zeros(size, size)
            expected[t, ball] = 1
            expected[-1, paddle : paddle + 2] = 1
            assert torch.equal(screens[row, t], expected)
            paddle = min(max(paddle + int(played.targets[row, t]) - 1, 0), size - 2)
    assert (played.rewards[:, :-1] == 0).all()
    assert (played.rewards[:, -1].abs() == 1).all()


def test_a_game_by_hand():
    task = Catch(0, size=4, visible_frames=2)
    game = task.begin(torch.tensor([[0, 1], [3, 0], [3, 2]]))
    rewards = []
    for action in (torch.tensor([LEFT, RIGHT_, RIGHT_]), torch.tensor([LEFT, STAY, RIGHT_]), torch.full((3,), LEFT)):
        game, reward_B = task.act(game, action)
        rewards.append(reward_B.tolist())
    assert game.paddle_B.tolist() == [0, 0, 1]  # walls stop the paddle
    assert rewards == [[0, 0, 0], [0, 0, 0], [1, -1, -1]]


def test_an_episode_as_a_line_and_as_a_film():
    task = Catch(0, size=5, visible_frames=2)
    step = task.loss(Player(perfectly, 5), Batch(torch.tensor([[4, 0], [0, 0]]), torch.full((2, 4), 0.5)))
    assert task.render(step.played, 0, step.output) == "ball in column  4, paddle from  0   >>>.   to  3   right"
    assert task.labels(step.played, 1) == ["."] * 4
    film = task.film(step.played, 0, step.output)
    assert film.frames.shape == (5, 5, 5)
    assert film.frames.sum((1, 2)).tolist() == [3, 3, 3, 3, 2]  # the ball is on the paddle at the end
    assert film.frames[4, 4].tolist() == [0, 0, 0, 1, 1]
    assert film.seen.tolist() == [True, True, False, False, False]
    assert [ACTIONS[action] for action in film.taken] == ["right", "right", "right", "stay"]
    assert film.policy.shape == (4, 3)
    assert film.policy.argmax(1).tolist() == film.taken.tolist()


def test_the_screen_has_to_go_dark():
    with pytest.raises(ValueError, match="visible_frames=5: must be below size=5"):
        Catch(0, size=5, visible_frames=5)
