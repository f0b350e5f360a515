"""Measures updates on Catch, against a plain loop of modules that plays it step by step; see scripts/benchmark.py."""

from functools import partial
from itertools import count
from statistics import median
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torch.distributions import Categorical
from torch.utils.benchmark import Measurement

from src.benchmarks.updates import MODELS, PausingClock, in_turns, ratio_of, update_as_trained
from src.models.sequence import SequenceModel
from src.ops.inputs import steps
from src.specs import Batch
from src.tasks.catch import Catch
from src.tasks.environment import Environment

VISIBLE_FRAMES, EXPANSION_SIZE = 3, 128


def plainly(task: Environment, model: SequenceModel, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """The losses of episodes, computed by definition, and their actions [B, T].

    Every step consists of a screen, the encoder, a step of the core, the head and an action; gradients flow through all
    of them.
    """
    game, state = task.begin(batch.inputs), model.core.initial_state(len(batch.inputs))
    log_chosen, values, entropies, rewards, actions = [], [], [], [], []
    blank_BX = torch.zeros_like(task.observe(game))
    for t, draw_B in enumerate(batch.targets.unbind(1)):
        seen_BX = task.observe(game) if t < task.num_seen else blank_BX
        [p_BP] = steps(model.project(seen_BX[:, None]).vectors)
        y_BH, state = model.core.step(p_BP, state)
        *logits, value_B = model.head(y_BH).unbind(-1)
        policy = Categorical(logits=torch.stack(logits, -1))
        action_B = (draw_B[:, None] >= policy.probs.cumsum(-1)[:, :-1]).sum(-1)
        game, reward_B = task.act(game, action_B)
        log_chosen.append(policy.log_prob(action_B))
        entropies.append(policy.entropy())
        values.append(value_B)
        rewards.append(reward_B)
        actions.append(action_B)
    to_come_B = torch.zeros_like(rewards[-1])
    parts: dict[str, list[Tensor]] = {"policy": [], "value": [], "entropy": []}
    for t in reversed(range(task.num_steps)):
        to_come_B = rewards[t] + task.discount * to_come_B
        parts["policy"].append(-log_chosen[t] * (to_come_B - values[t].detach()))
        parts["value"].append(task.value_weight * (to_come_B - values[t]) ** 2)
        parts["entropy"].append(-task.entropy_weight * entropies[t])
    return {name: torch.stack(part).mean() for name, part in parts.items()}, torch.stack(actions, 1)


def measure(cell: dict[str, Any], batch_size: int, rounds: int, seconds: float) -> dict[str, Any]:
    """One row: an update of a model that plays T steps and the same update by the plain loop, timed alternately."""
    torch.set_num_threads(cell["threads"])
    torch.set_flush_denormal(True)  # as a run does
    torch.manual_seed(0)
    task, indices = Catch(0, size=cell["length"] + 1, visible_frames=min(VISIBLE_FRAMES, cell["length"])), count()
    config = OmegaConf.load(MODELS / f"{cell['model']}.yaml")
    make_core = partial(instantiate, config, kernel=cell["kernel"], hidden_size=cell["hidden_size"])

    def new_model() -> SequenceModel:
        return SequenceModel(task.input_spec, task.output_spec, make_core, expansion_size=EXPANSION_SIZE)

    def next_batch() -> Batch:
        return task.batch("train", next(indices), batch_size)

    model, plain_model = new_model(), new_model()

    def plain_loss() -> Tensor:
        policy, value, entropy = plainly(task, plain_model, next_batch())[0].values()
        return policy + value + entropy

    functions = {
        "update": update_as_trained(model, lambda: task.loss(model, next_batch()).loss),
        "loop": update_as_trained(plain_model, plain_loss),
    }
    measured = in_turns(functions, PausingClock(), cell["threads"], rounds, seconds)
    ms = {what: [1e3 * one.median for one in measurements] for what, measurements in measured.items()}
    [update] = Measurement.merge(measured["update"])
    return (
        cell
        | {f"{what}_ms": median(values) for what, values in ms.items()}
        | {
            "batch_size": batch_size,
            "dtype": "float32",
            "update_ms": 1e3 * update.median,
            "update_iqr_ms": 1e3 * update.iqr,
            "actions_per_second": batch_size * cell["length"] / update.median,
            "ratio_of_loop": ratio_of(ms["loop"], ms["update"]),
            "rounds_ms": ms,
        }
    )
