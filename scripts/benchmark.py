"""Time per update of every model beside torch's own recurrent networks, in one process and one run.

    python scripts/benchmark.py                       every model at 50 and 100 units
    python scripts/benchmark.py --models lstm --hidden-sizes 50 --seconds 5

Every network stands between the same encoder and head on the same task; an update is a batch, its forward and
backward pass, the clipping of the gradient and a step of Adam. The yardsticks compute only the recurrence with torch's
own layer. Times are medians; the ratio is to nn.LSTM of the same width.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich import get_console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from src.models.base import Core
from src.models.sequence import SequenceModel
from src.optimizers import adam
from src.tasks.associative_retrieval import AssociativeRetrieval

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
YARDSTICKS: dict[str, Callable[..., nn.RNNBase]] = {"nn.RNN": nn.RNN, "nn.GRU": nn.GRU, "nn.LSTM": nn.LSTM}


class Yardstick(Core):
    """torch's own layer in the place of a core; it projects its inputs itself."""

    def __init__(self, input_size: int, *, layer: Callable[..., nn.RNNBase], hidden_size: int):
        super().__init__(input_size, hidden_size)
        self.layer = layer(input_size, hidden_size, batch_first=True)

    def forward(self, p_BTP: Tensor, state=None):
        return self.layer(p_BTP, state)


def milliseconds_per_update(make_core: Callable[[int], Core], batch_size: int, seconds: float) -> float:
    """The median time of one update on associative retrieval."""
    torch.manual_seed(0)
    task = AssociativeRetrieval(0)
    model = SequenceModel(task.input_spec, task.output_spec, make_core, head_size=100)
    parameters = list(model.parameters())
    optimizer = adam(parameters)
    position = iter(range(10**9))

    def update() -> None:
        step = task.loss(model, task.batch("train", next(position), batch_size))
        optimizer.zero_grad()
        step.loss.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()

    for _ in range(20):
        update()
    timer = Timer("update()", globals={"update": update}, num_threads=torch.get_num_threads())
    return 1e3 * timer.blocked_autorange(min_run_time=seconds).median


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
    parser.add_argument("--models", nargs="+", choices=models, default=models, metavar="MODEL")
    parser.add_argument("--hidden-sizes", nargs="+", type=int, default=[50, 100], metavar="H")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="of measurement per row")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    table = Table("H", "network", "ms per update", "ratio to nn.LSTM", title=f"batch {arguments.batch_size}, T = 11")
    for hidden_size in arguments.hidden_sizes:
        cores: dict[str, Callable[[int], Core]] = {
            name: partial(Yardstick, layer=layer, hidden_size=hidden_size) for name, layer in YARDSTICKS.items()
        }
        for name in arguments.models:
            config = OmegaConf.load(CONFIGS / "model" / f"{name}.yaml")
            cores[name] = partial(instantiate, config, hidden_size=hidden_size)
        times = {
            name: milliseconds_per_update(make_core, arguments.batch_size, arguments.seconds)
            for name, make_core in cores.items()
        }
        for name, time in times.items():
            table.add_row(str(hidden_size), name, f"{time:.2f}", f"{time / times['nn.LSTM']:.2f}")
        table.add_section()
    get_console().print(table)


if __name__ == "__main__":
    main()
