"""How long fast weights with 50 units take to 2 % error, on one core."""

import numpy as np
import pandas as pd

from src.papers.base import Evidence, Reproduction, thousands


def table(evidence: Evidence) -> pd.DataFrame:
    """Updates and seconds of training until the validation error is at or below 2 %."""
    runs = evidence.select(model="fastweights")
    seconds = runs["seconds"].to_numpy(float)
    return pd.DataFrame(
        [
            {
                "lr": f"{runs['optimizer.lr'].iloc[0]:g}",
                "updates": thousands(runs["updates"].to_numpy(float)),
                "seconds, mean ± sd": f"{seconds.mean():.1f} ± {np.std(seconds, ddof=1):.1f}",
                "test error there, %": f"{100 * runs['test/error'].mean():.2f}",
                "n": len(runs),
            }
        ]
    )


REPRODUCTION = Reproduction(
    title="Time to 2 % error with 50 units: fast weights on one core",
    experiments=("ba2016/time_to_two_percent",),
    claims=(),
    table=table,
)
