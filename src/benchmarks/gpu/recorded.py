"""The part that checks updates as CUDA graphs: they equal updates without a graph, to the last bit."""

import random
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from src.benchmarks.gpu.rows import Rows
from src.benchmarks.gpu.updates import How
from src.config.compose import compose
from src.running.build import build_trainer_on
from src.specs import state_tensors
from src.training.trainer import Trainer

WINDOW, ROWS = 20, 8
"""Steps in a window of text, and rows in a batch."""
EPOCH = 10
"""Windows in each row of the training text."""
TEXT = ["task=language_model", f"task.window={WINDOW}"]
CASES = {
    "fast weights": [],
    "a state that is carried": [*TEXT, "model=lstm", "network.num_layers=2"],
    "dropout": ["network.input_dropout=0.2", "network.output_dropout=0.2"],
    "dropout with one mask for a sequence": ["network.input_dropout=0.2", "network.dropout_mask=sequence"],
    "a mask in a state that is carried": [*TEXT, "model=cp_gate", "model.dropout=0.2"],
    "weight noise": ["trainer.weight_noise=0.05"],
    "episodes that are played": ["task=catch"],
}
"""The settings of each case; the default is fast weights on associative retrieval."""


def graphs(rows: Rows, device: str, tiny: bool) -> None:
    """Updates as a graph, without one, and as a graph resumed from a checkpoint in the middle of an epoch."""
    how = How.of(device, tiny)
    count = 20 if tiny else 35
    with tempfile.TemporaryDirectory() as root:
        text = Path(root, "text.txt")
        text.write_text("".join(random.Random(0).choices("abcdefgh ", k=round(EPOCH * WINDOW * ROWS / 0.8) + 2)))
        common = [f"trainer.batch_size={ROWS}", f"trainer.max_updates={count}", "optimizer.lr=0.0078125"]
        common += ["scheduler=constant", f"model.hidden_size={8 if tiny else 50}"]
        for number, (what, settings) in enumerate(CASES.items()):
            with rows.trying(what):
                own = [*settings, *common, *([f"task.file={text}"] if TEXT[0] in settings else [])]
                make = partial(_trainer, how.device, Path(root, str(number)), own)  # just before use: it sets the seed
                expected = _after(make(by_graph=False), count)
                graph = make(by_graph=True)
                same = _same(_after(graph, count), expected)
                interrupted = make(by_graph=True)
                _after(interrupted, count * 2 // 3)
                interrupted.checkpoints.save(interrupted.state)
                resumed = make(by_graph=True)
                is_resumed = resumed.checkpoints.resume(resumed.state)
                same_resumed = is_resumed and _same(_after(resumed, count - resumed.state.update), expected)
                replayed = graph.update.replayed
                is_graph = replayed is not None and replayed.is_recorded
                found = f"{'a graph' if is_graph else 'no graph'}: {'the same' if same else 'different'}"
                found += f"; resumed: {'the same' if same_resumed else 'different'}"
                right = same and same_resumed and (is_graph or how.device.type != "cuda")
                rows.right(f"{what}, {count} updates", found, "a graph: the same; resumed: the same", right)


def _trainer(device: torch.device, folder: Path, settings: list[str], by_graph: bool) -> Trainer:
    trainer = build_trainer_on(device, compose(*settings, f"run.cuda_graphs={str(by_graph).lower()}"), folder, "0")
    trainer.model.train()
    return trainer


def _after(trainer: Trainer, count: int) -> list[Tensor]:
    """Perform `count` updates; return the last loss, the weights, and the state that is carried."""
    for _ in range(count):
        trainer.update()
    loss = trainer.update.last().step.loss.detach()
    carried = [] if trainer.state.recurrent is None else state_tensors(trainer.state.recurrent)
    return [loss, trainer.update.weights.detach(), *carried]


def _same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(map(torch.equal, found, expected)) and len(found) == len(expected)
