# %% [markdown]
# # Fast weights on one sequence
#
# This notebook shows, step by step, what the network of Ba et al. (2016) writes to its memory and what it reads from
# it. The network is first trained for a few seconds. This file opens as a notebook in Jupyter (with jupytext) and in VS
# Code, and also runs as a program.

# %%
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]) if "__file__" in globals() else str(Path.cwd()))

import torch
from torch.nn.utils import clip_grad_norm_

from src.config.compose import compose
from src.running.build import build_model, build_task

NUM_UPDATES = 3000

# %% [markdown]
# A configuration is composed as on the command line. The task and the model are built from it: the batches of the task
# are a pure function of split and index, and the model consists of an embedding, the recurrent core, and a head.

# %%
config = compose("model=fastweights", "seed=0")
task = build_task(config)
torch.manual_seed(config.seed)
model = build_model(config, task)
print(f"{model.num_parameters} parameters, {model.core.state_size} numbers of state")

# %% [markdown]
# A custom training loop needs the loss and nothing else.

# %%
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for update in range(NUM_UPDATES):
    loss = task.loss(model, task.batch("train", update, 128)).loss
    optimizer.zero_grad()
    loss.backward()
    clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    if update % 500 == 0:
        print(f"update {update}: {loss.item():.3f} nats")

# %% [markdown]
# One test sequence: four pairs of a letter and a digit, then the question.

# %%
model.eval()
batch = next(iter(task.evaluation("test"))).take(slice(0, 1))
with torch.no_grad():
    output = model(batch.inputs)
print(task.render(batch, 0, output))

# %% [markdown]
# The hidden state reads its memory by attending to its own past,
# $A_t h_s = \eta \sum_\tau \lambda^{t-\tau} h_\tau (h_\tau \cdot h_s)$.
# The attention of the last step to each earlier one, as a share of the sum:

# %%
with torch.no_grad():
    projected = model.project(batch.inputs).vectors
    attention = model.core.attention(projected)
assert attention is not None  # other cores have none
for label, weight in zip(task.labels(batch, 0), (attention[0] / attention[0].sum()).tolist(), strict=False):
    print(f"{label}  {'█' * round(40 * weight)} {weight:.2f}")

# %% [markdown]
# The memory grows by one outer product at every step, so its rank is at most the number of steps.

# %%
with torch.no_grad():
    for t in range(1, projected.shape[1]):
        memory = model.core.memory(projected[:, : t + 1])  # as step t reads it
        assert memory is not None
        rank = int(torch.linalg.matrix_rank(memory[0], rtol=1e-5))
        print(f"after {task.labels(batch, 0)[t - 1]}: norm {memory.norm():6.2f}, rank {rank}")
