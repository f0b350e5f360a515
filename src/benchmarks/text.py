"""Measures updates of a language model, which answers at every step and carries its state; see scripts/benchmark.py."""

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from src.benchmarks.updates import (
    LAYERS,
    MODELS,
    SAME_KIND,
    PausingClock,
    Yardstick,
    in_turns,
    row_of_updates,
    update_as_trained,
)
from src.models.base import Core
from src.models.sequence import SequenceModel
from src.specs import Batch, InputSpec, Output, OutputSpec, State, map_state
from src.tasks.base import Task

NUM_SYMBOLS, EMBEDDING_SIZE = 82, 32
"""The number of symbols in War and Peace, and the size of their embedding."""


class Windows(Task):
    """Windows of random symbols: like the task `language_model`, but without a text."""

    input_spec = InputSpec("tokens", NUM_SYMBOLS)
    output_spec = OutputSpec("class", NUM_SYMBOLS, every_step=True)
    carries_state = True
    floors = {}  # noqa: RUF012

    def __init__(self, length: int):
        super().__init__(0, train_size=5_000, val_size=1, test_size=1)
        self.length = length

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        symbols = torch.randint(NUM_SYMBOLS, (num_examples, self.length + 1), generator=generator)
        return Batch(symbols[:, :-1].contiguous(), symbols[:, 1:].contiguous())

    def render(self, batch: Batch, row: int, output: Output) -> str:
        return ""


def measure(cell: dict[str, Any], batch_size: int, rounds: int, seconds: float, rank: int | None) -> dict[str, Any]:
    """One row: updates of a model, of torch's layer of the same kind and of nn.LSTM, timed alternately."""
    torch.set_num_threads(cell["threads"])
    torch.set_flush_denormal(True)  # as a run does
    torch.manual_seed(0)
    task, own = Windows(cell["length"]), SAME_KIND.get(cell["model"])
    indices = count()

    def loss_of(make_core: Callable[..., Core]) -> tuple[SequenceModel, Callable[[], Tensor]]:
        make_core = partial(make_core, hidden_size=cell["hidden_size"])
        model = SequenceModel(task.input_spec, task.output_spec, make_core, embedding_size=EMBEDDING_SIZE)
        state: State | None = None

        def loss() -> Tensor:
            nonlocal state
            step = task.loss(model, task.batch("train", next(indices), batch_size), state)
            state = map_state(Tensor.detach, step.output.state)
            return step.loss

        return model, loss

    config = OmegaConf.load(MODELS / f"{cell['model']}.yaml")
    assert OmegaConf.is_dict(config)
    if rank is not None and "rank" in config:
        config.rank = rank
    like_its_yardstick = {"nonlinearity": "relu"} if cell["model"] == "rnn" else {}
    model, loss = loss_of(partial(instantiate, config, kernel=cell["kernel"], **like_its_yardstick))
    functions: dict[str, Callable] = {"update": update_as_trained(model, loss)}
    for layer in dict.fromkeys(["nn.LSTM", own or "nn.LSTM"]):
        functions[layer] = update_as_trained(*loss_of(partial(Yardstick, layer=LAYERS[layer])))
    measured = in_turns(functions, PausingClock(), cell["threads"], rounds, seconds)
    shown = {"rank": int(config.rank)} if "rank" in config else {}
    return cell | shown | row_of_updates(measured, own, model, loss, batch_size)
