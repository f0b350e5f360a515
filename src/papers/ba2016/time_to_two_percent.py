"""How long fast weights with 50 units take to reach 2 % error on one core."""

import pandas as pd

from src.reproduction.base import Evidence, Reproduction, mean_and_sd, percent, thousands


def table(evidence: Evidence) -> pd.DataFrame:
    """Updates and seconds of training until the validation error is at or below 2 %."""
    runs = evidence.select(model="fastweights")
    updates, seconds = (runs[column].to_numpy(float) for column in ("updates", "seconds"))
    row = {
        "lr": f"{runs['optimizer.lr'].iloc[0]:g}",
        "updates, mean ± sd": mean_and_sd(updates, ",.0f"),
        "median (range)": thousands(updates),
        "seconds, mean ± sd": mean_and_sd(seconds, ".1f"),
        "test error there, %": percent(runs["test/error"].to_numpy(float)).removesuffix(" %"),
        "n": str(len(runs)),
    }
    return pd.DataFrame([row])


REPRODUCTION = Reproduction(
    title="Time to 2 % error with 50 units: fast weights on one core",
    experiments=("ba2016/time_to_two_percent",),
    claims=(),
    table=table,
)
