# %% [markdown]
# # A cell of one's own
#
# A recurrent core is defined by one step of its recurrence. This one, a leaky integrator with a rate for every unit, is
# written here and trained next to an LSTM. To use it on the command line, put the class into `src/models/leaky.py` and
# its settings into `configs/model/leaky.yaml`; the shared tests and a compiled kernel then need no further work.

# %%
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]) if "__file__" in globals() else str(Path.cwd()))

import torch
from torch import Tensor, nn

from src.config.compose import compose
from src.models.base import Core
from src.models.lstm import LSTM
from src.models.sequence import SequenceModel
from src.running.build import build_task
from src.training.evaluation import evaluate

NUM_UPDATES = 400

# %% [markdown]
# `project` computes what the input contributes at every position; `step` is the recurrence.


# %%
class Leaky(Core):
    """h_t = a ⊙ h_{t-1} + (1 - a) ⊙ tanh(W h_{t-1} + V x_t + b), with a = sigmoid of a learned vector."""

    def __init__(self, input_size: int, *, hidden_size: int = 50):
        super().__init__(input_size, hidden_size)
        self.input = nn.Linear(input_size, hidden_size)
        self.recurrent = nn.Linear(hidden_size, hidden_size, bias=False)
        self.rate = nn.Parameter(torch.linspace(0.0, 3.0, hidden_size))

    def project(self, x: Tensor) -> Tensor:
        """V x + b."""
        return self.input(x)

    def step(self, p_BH: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The equation above."""
        rate = torch.sigmoid(self.rate)
        state = rate * state + (1 - rate) * torch.tanh(self.recurrent(state) + p_BH)
        return state, state


# %% [markdown]
# Both are trained on the same task, in the same network, with the same number of updates.

# %%
config = compose("task=addition", "task.sequence_length=20", "task.train_size=null", "task.val_size=1000")
task = build_task(config)
for cell in (Leaky, LSTM):
    torch.manual_seed(0)
    model = SequenceModel(task.input_spec, task.output_spec, partial(cell, hidden_size=50))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for update in range(NUM_UPDATES):
        optimizer.zero_grad()
        task.loss(model, task.batch("train", update, 64)).loss.backward()
        optimizer.step()
    metrics = evaluate(model.eval(), task, "val")
    fused = "a compiled kernel" if model.core.is_fused else "plain PyTorch"
    print(f"{cell.__name__}: mean squared error {metrics['mse']:.4f}, computed by {fused}")
for words, floor in task.floors.items():
    print(f"{words}: {floor.get('mse', float('nan')):.4f}")
