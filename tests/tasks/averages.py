"""Metrics as they are reported."""

from src.tasks.base import Metrics


def averages(metrics: Metrics) -> dict[str, float]:
    """Divide each sum by its count."""
    return {name: float(total) / count for name, (total, count) in metrics.items()}
