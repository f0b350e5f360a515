"""Catch, the game of Mnih et al. (2014) as Ba et al. (2016) play it: after a few frames the screen goes dark.

Shapes: B environments, N rows and columns of the screen, T actions, A actions to choose from.
"""

from typing import Annotated, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from src.specs import Batch, Film, Output
from src.tasks.base import RIGHT, WRONG
from src.tasks.environment import Environment

ACTIONS = ("left", "stay", "right")
ARROWS = "<.>"


class Game(NamedTuple):
    """The row of all balls, the column of each ball, and the left column of each paddle."""

    row: int
    ball_B: Tensor
    paddle_B: Tensor


class Catch(Environment):
    r"""Be where the ball comes down, having seen only the start of its fall.

        . . . o . .       . . . . . .       . . . . . .               . . . . . .
        . . . . . .       . . . o . .       . . . . . .               . . . . . .
        . . . . . .       . . . . . .       . . . . . .      dark     . . . . . .
        . . . . = =       . . . = = .       . . . = = .    ------>    . . . = = .     1, or else -1

    The screen has N x N binary pixels, which a network sees as one vector. A ball of one pixel falls by one row per
    frame from a random column of the first row; a paddle of two pixels starts anywhere in the last row. An action moves
    the paddle one column to the left or right, or leaves it where it is. An episode has N frames and so T = N - 1
    actions, enough to get anywhere. At the last frame the reward is 1 if the ball is on the paddle, otherwise -1; until
    then it is 0. From frame M + 1 on all pixels are 0, so the network has to remember where the ball was and how it has
    moved the paddle since.

    Ball and paddle are independent of each other, so a player that ignores the ball catches 2 of N, for a mean return
    of -1 + 4/N: -0.75 for N = 16, -0.83 for N = 24. The paper states neither where the paddle starts nor what happens
    at the walls; here a wall stops the paddle.

    Args:
        seed: seed of all episodes.
        size: N, the number of rows and columns.
        visible_frames: M, the number of frames before the screen goes dark.
        discount: γ, see `Environment`.
        value_weight: c_v, see `Environment`.
        entropy_weight: c_h, see `Environment`.
        val_size: number of episodes in the validation set.
        test_size: number of episodes in the test set.
    """

    def __init__(
        self,
        seed: int,
        *,
        size: Annotated[int, Ge(3)] = 16,
        visible_frames: Annotated[int, Ge(1)] = 3,
        discount: Annotated[float, Ge(0), Le(1)] = 1.0,
        value_weight: Annotated[float, Ge(0)] = 0.5,
        entropy_weight: Annotated[float, Ge(0)] = 0.01,
        val_size: Annotated[int, Ge(1)] = 1000,
        test_size: Annotated[int, Ge(1)] = 5000,
    ):
        if visible_frames >= size:
            raise ValueError(f"visible_frames={visible_frames}: must be below size={size}, the frames of an episode")
        super().__init__(
            seed,
            observation_size=size**2,
            num_actions=len(ACTIONS),
            num_steps=size - 1,
            num_seen=visible_frames,
            discount=discount,
            value_weight=value_weight,
            entropy_weight=entropy_weight,
            val_size=val_size,
            test_size=test_size,
        )
        self.size = size

    def starts(self, num_episodes: int, generator: torch.Generator) -> Tensor:
        """Draw the columns of the ball and the paddle."""
        ball_N = torch.randint(self.size, (num_episodes,), generator=generator)
        return torch.stack([ball_N, torch.randint(self.size - 1, (num_episodes,), generator=generator)], 1)

    def begin(self, starts_BS: Tensor) -> Game:
        """The game with the ball in the first row."""
        return Game(0, *starts_BS.unbind(1))

    def observe(self, game: Game) -> Tensor:
        """The pixels, row by row; the ball is not yet in the last row."""
        columns_N = torch.arange(self.size, device=game.ball_B.device)
        ball_BN = (columns_N == game.ball_B[:, None]).float()
        right_BN = columns_N - game.paddle_B[:, None]
        paddle_BN = ((right_BN == 0) | (right_BN == 1)).float()
        above, below = (
            ball_BN.new_zeros(len(ball_BN), rows * self.size) for rows in (game.row, self.size - 2 - game.row)
        )
        return torch.cat([above, ball_BN, below, paddle_BN], 1)

    def act(self, game: Game, action_B: Tensor) -> tuple[Game, Tensor]:
        """Move the paddle, and let the ball fall."""
        row, ball_B = game.row + 1, game.ball_B
        paddle_B = (game.paddle_B + (action_B - 1)).clamp(0, self.size - 2)
        if row < self.size - 1:
            reward_B = torch.zeros_like(ball_B, dtype=torch.float32)
        else:
            right_B = ball_B - paddle_B
            reward_B = 2 * ((right_B == 0) | (right_B == 1)).float() - 1
        return Game(row, ball_B, paddle_B), reward_B

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        ball, paddle = np.meshgrid(np.arange(self.size), np.arange(self.size - 1))
        moves = np.maximum(np.maximum(paddle - ball, ball - paddle - 1), 0)
        returns = {
            "ignores the ball": -1 + 4 / self.size,
            "moves only while it sees": 2 * float((moves <= self.num_seen).mean()) - 1,
            "perfect": 1.0,
        }
        return {name: {"return": value} for name, value in returns.items()}

    def labels(self, batch: Batch, row: int) -> list[str]:
        """The action after each frame."""
        return [ARROWS[action] for action in batch.targets[row].tolist()]

    def render(self, batch: Batch, row: int, output: Output) -> str:
        """The columns of the ball and the paddle, and all actions."""
        assert batch.rewards is not None
        ball, paddles = self._columns(batch, row)
        played = "".join(self.labels(batch, row))
        verdict = RIGHT if float(batch.rewards[row].sum()) > 0 else WRONG
        return f"ball in column {ball:2}, paddle from {paddles[0]:2}   {played}   to {paddles[-1]:2}   {verdict}"

    def film(self, batch: Batch, row: int, output: Output) -> Film:
        ball, paddles = self._columns(batch, row)
        frames = np.zeros((self.size, self.size, self.size))
        for t, paddle in enumerate(paddles):
            frames[t, -1, paddle : paddle + 2] = frames[t, t, ball] = 1
        logits_TA, values_T = (one[row] for one in self.split(output))
        return Film(
            title=self.render(batch, row, output),
            frames=frames,
            seen=np.arange(self.size) < self.num_seen,
            actions=list(ACTIONS),
            taken=batch.targets[row].numpy(force=True),
            policy=logits_TA.softmax(-1).numpy(force=True),
            values=values_T.numpy(force=True),
        )

    def _columns(self, batch: Batch, row: int) -> tuple[int, list[int]]:
        """The column of the ball, and the left column of the paddle at every frame."""
        first_NN = batch.inputs[row, 0].view(self.size, self.size)
        paddles = [int(first_NN[-1].argmax())]
        for action in batch.targets[row].tolist():
            paddles.append(min(max(paddles[-1] + action - 1, 0), self.size - 2))
        return int(first_NN[0].argmax()), paddles
