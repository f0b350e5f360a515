# %% [markdown]
# # A sweep as pandas tables
#
# Every run writes `result.json` and `metrics.jsonl`. Here a small sweep is run and its results are read: final metrics,
# curves, and the answers of the best network.

# %%
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]) if "__file__" in globals() else str(Path.cwd()))

import pandas as pd
import torch

from src.config.paths import PROJECT
from src.results.curves import learning_curves
from src.results.runs import load_runs
from src.running.load import load_run

FOLDER = Path("outputs/pandas")
SWEEP = "model=fastweights,lstm seed=0,1 trainer.max_updates=1000 trainer.eval_every=250 name=pandas"

# %% [markdown]
# When it is started again, the sweep runs only what is missing.

# %%
command = [sys.executable, "-m", "src.train", "-m", *SWEEP.split(), f"run.root={FOLDER.parent.absolute()}"]
subprocess.run(command, cwd=PROJECT, check=True)

# %% [markdown]
# One row per run: its settings, and the metrics of the weights that were best on the validation set.

# %%
runs = load_runs(FOLDER)
table = pd.DataFrame([{"run": run.name, **run.settings, **run.metrics, "seconds": run.seconds} for run in runs])
print(table.groupby("model")[["val/error", "test/error", "seconds"]].agg(["mean", "std"]).round(4))

# %% [markdown]
# One row per point of a curve.

# %%
curves = learning_curves(FOLDER, runs, "val/error").merge(table[["run", "model"]])
print(curves.pivot_table(index="update", columns="model", values="value").round(3))

# %% [markdown]
# The best run, with its network.

# %%
best = load_run(FOLDER / table.loc[table["val/error"].idxmin(), "run"])
batch = next(iter(best.task.evaluation("test"))).take(slice(0, 3))
with torch.no_grad():
    output = best.model(batch.inputs)
print(*(best.task.render(batch, row, output) for row in range(3)), sep="\n")
