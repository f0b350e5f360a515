"""The contract of a task that is played: an environment, and the actor-critic loss of a network that acts in it.

Shapes: B environments, S numbers that describe a start, T actions in an episode, V steps that are seen, X features of
an observation, A actions.
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from src.models.sequence import SequenceModel
from src.ops.inputs import Inputs
from src.ops.precision import without_autocast
from src.specs import Batch, InputSpec, Objective, Output, OutputSpec, State, Step
from src.tasks.base import Metrics, Task

Game = Any
"""The state of B environments, of any type that the subclass chooses; never changed in place."""


class Environment(Task):
    r"""Episodes of T actions, many played side by side, from which a network learns by advantage actor-critic.

    At every step the network outputs the logits of a policy π over the actions, and a value v, its estimate of the
    return given what it has seen so far. Actions are drawn from π. With rewards r and the return G still to come:

        G_t       = r_t + γ G_t+1,  G_T+1 = 0

        policy    = - mean of log π_t(a_t) (G_t - v_t)                no gradient through v_t
        value     = c_v mean of (G_t - v_t)²
        entropy   = - c_h mean of H(π_t)

    The loss is the sum of these three, as in Mnih et al. (2016), "Asynchronous Methods for Deep Reinforcement Learning"
    (arXiv 1602.01783), but with whole episodes in place of n steps, played synchronously: all B end together.

    The random draws are part of the data: a batch of episodes to be played has their starts [B, S] as inputs and, as
    targets, numbers [B, T] drawn from U(0, 1), at which the cumulative distribution of π is inverted. An episode is
    therefore a pure function of the settings, the seed, its split and index, and the weights. Once it has been played,
    a batch has observations [B, T, X] as inputs and actions [B, T] as targets.

    The first V observations depend on the actions before them; the others are 0. The network plays step by step,
    without gradients, only as long as its observations depend on its actions. From then on everything it sees is known,
    and one pass with gradients over the whole sequence yields the remaining actions and the loss. (With dropout, the
    masks of the two passes differ.)

    A subclass sets the number of steps, and defines `starts`, `begin`, `observe` and `act`.

    Args:
        seed: seed of all episodes.
        observation_size: X, the number of features of an observation.
        num_actions: A, the number of actions to choose from.
        num_steps: T, the number of actions in an episode.
        num_seen: V, the number of steps that are seen, from 1 to T.
        discount: γ, the discount of later rewards.
        value_weight: c_v, the weight of the squared error of the value.
        entropy_weight: c_h, the weight of the entropy of the policy.
        val_size: number of episodes in the validation set.
        test_size: number of episodes in the test set.
    """

    objective = Objective("return", higher_is_better=True)

    def __init__(
        self,
        seed: int,
        *,
        observation_size: int,
        num_actions: int,
        num_steps: int,
        num_seen: int,
        discount: float,
        value_weight: float,
        entropy_weight: float,
        val_size: int,
        test_size: int,
    ):
        super().__init__(seed, train_size=None, val_size=val_size, test_size=test_size)
        self.input_spec = InputSpec("vectors", observation_size)
        self.output_spec = OutputSpec("policy", num_actions, every_step=True)
        self.num_steps = num_steps
        self.num_seen = num_seen
        self.discount = discount
        self.value_weight = value_weight
        self.entropy_weight = entropy_weight

    @abstractmethod
    def starts(self, num_episodes: int, generator: torch.Generator) -> Tensor:
        """Draw the starts of episodes, [N, S]."""

    @abstractmethod
    def begin(self, starts_BS: Tensor) -> Game:
        """The state of the environments before the first action."""

    @abstractmethod
    def observe(self, game: Game) -> Tensor:
        """The observation of a state, [B, X]; called for the first V states only."""

    @abstractmethod
    def act(self, game: Game, action_B: Tensor) -> tuple[Game, Tensor]:
        """The next state, and the reward [B]."""

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        """Draw episodes to be played."""
        starts_NS = self.starts(num_examples, generator)
        return Batch(starts_NS, torch.rand(num_examples, self.num_steps, generator=generator))

    def seen(self, batch: Batch) -> Batch:
        """The batch with inputs of the shape of all observations, which take up no memory."""
        shape = len(batch.inputs), self.num_steps, self.input_spec.size
        return batch._replace(inputs=batch.targets.new_zeros(()).expand(shape))

    def loss(self, model: SequenceModel, batch: Batch, state: State | None = None) -> Step:
        """Play a batch of episodes and compute their losses."""
        seen_BVX, actions, rewards, game = self._play_seen(model, batch)
        output = model(self._all_observations(seen_BVX), return_state=False)
        logits_BTA, value_BT = self.split(output)
        left = slice(self.num_seen - 1, None)
        for action_B in drawn(logits_BTA.detach()[:, left], batch.targets[:, left]).unbind(1):
            game, reward_B = self.act(game, action_B)
            actions.append(action_B)
            rewards.append(reward_B)

        action_BT, reward_BT = torch.stack(actions, 1), torch.stack(rewards, 1)
        return_BT = self.returns(reward_BT)
        log_policy_BTA = logits_BTA.log_softmax(-1)
        log_chosen_BT = log_policy_BTA.gather(-1, action_BT[..., None])[..., 0]
        advantage_BT = return_BT - value_BT
        losses = {
            "policy": -(log_chosen_BT * advantage_BT.detach()).mean(),
            "value": self.value_weight * advantage_BT.square().mean(),
            "entropy": -self.entropy_weight * entropy(log_policy_BTA).mean(),
        }
        unseen_BUX = seen_BVX.new_zeros(len(seen_BVX), self.num_steps - self.num_seen, self.input_spec.size)
        played = Batch(torch.cat([seen_BVX, unseen_BUX], 1), action_BT, rewards=reward_BT)
        return Step(losses, output, played)

    @torch.no_grad()
    def _play_seen(self, model: SequenceModel, batch: Batch) -> tuple[Tensor, list[Tensor], list[Tensor], Game]:
        """The observations that are not 0 [B, V, X], the actions between them, their rewards, and the last state."""
        game, state = self.begin(batch.inputs), None
        seen, actions, rewards = [self.observe(game)], [], []
        # the state of fast weights is so large that attending to the first steps again costs a tenth of carrying it
        again = model.core.state_size > self.num_seen * model.core.output_size
        for draw_B in batch.targets.unbind(1)[: self.num_seen - 1]:
            output = model(torch.stack(seen if again else seen[-1:], 1), state, return_state=not again)
            state = None if again else output.state  # some cores return it unrequested
            logits_BtA, _ = self.split(output)
            actions.append(drawn(logits_BtA[:, -1], draw_B))
            game, reward_B = self.act(game, actions[-1])
            rewards.append(reward_B)
            seen.append(self.observe(game))
        return torch.stack(seen, 1), actions, rewards, game

    def _all_observations(self, seen_BVX: Tensor) -> Inputs:
        """The observations at all steps; encoding the blank one only once saves half of an update of Catch."""
        rows_BV = torch.arange(seen_BVX.shape[0] * self.num_seen, device=seen_BVX.device).view(-1, self.num_seen)
        blank_BU = rows_BV.new_full((len(rows_BV), self.num_steps - self.num_seen), rows_BV.numel())
        blank_1X = seen_BVX.new_zeros(1, self.input_spec.size)
        return Inputs(torch.cat([seen_BVX.flatten(0, 1), blank_1X]), torch.cat([rows_BV, blank_BU], 1))

    def split(self, output: Output) -> tuple[Tensor, Tensor]:
        """The logits of the actions [B, T, A] and the values [B, T]."""
        return output.prediction[..., :-1], output.prediction[..., -1]

    def returns(self, reward_BT: Tensor) -> Tensor:
        """The return G at every step, [B, T]."""
        steps_T = torch.arange(reward_BT.shape[1], dtype=reward_BT.dtype, device=reward_BT.device)
        ahead_TT = steps_T[:, None] - steps_T  # steps from the column's step to the row's reward
        with without_autocast(reward_BT):
            return reward_BT @ torch.pow(self.discount, ahead_TT.clamp(min=0)).where(ahead_TT >= 0, 0)

    def metrics(self, output: Output, batch: Batch) -> Metrics:
        """`return`: the sum of the rewards of an episode; `entropy`: the entropy of the policy at a step, in nats."""
        assert batch.rewards is not None
        entropy_BT = entropy(self.split(output)[0].log_softmax(-1))
        return {
            "return": (batch.rewards.sum(), len(batch.inputs)),
            "entropy": (entropy_BT.sum(), entropy_BT.numel()),
        }


def drawn(logits: Tensor, draws: Tensor) -> Tensor:
    """The actions [...] at which the cumulative distributions of logits [..., A] exceed draws [...] from U(0, 1)."""
    return (draws[..., None] >= logits.softmax(-1).cumsum(-1)[..., :-1]).sum(-1)


def entropy(log_policy_BTA: Tensor) -> Tensor:
    """The entropy H of each policy, in nats."""
    return -(log_policy_BTA.exp() * log_policy_BTA).sum(-1)
