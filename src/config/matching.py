"""${units_for:3000}: the width at which a network has about this many weights, to compare models of equal size."""

import json
from bisect import bisect_left
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.config.errors import UserError
from src.config.schema import locate
from src.config.settings import without_hydra

MOST = 10_000_000
"""Largest number of weights: a configuration may come from anyone, and networks are built to count their weights."""
TRIED = 256
"""Of this many widths in a row, at least one has to be legal."""
_found: dict[str, int] = {}


def units_for(num_parameters: Any, root: DictConfig) -> int:
    """The `model.hidden_size` at which model, encoder and head come closest to a given number of trained weights.

    Raises:
        UserError: the number is not an integer from 1 to `MOST`, or no network can be built.
    """
    if type(num_parameters) is not int or not 1 <= num_parameters <= MOST:
        raise UserError(f"${{units_for:{num_parameters}}}: must be an integer from 1 to {MOST:,}")
    config = without_hydra(root).copy()
    config.model.hidden_size = 1
    key = json.dumps([num_parameters, _settings(config)])
    if key not in _found:
        _found[key] = _closest(config, num_parameters)
    return _found[key]


def _closest(config: DictConfig, wanted: int) -> int:
    sizes: dict[int, int] = {}

    def size(width: int) -> int:
        """The number of weights at the first legal width from this one on; an associative LSTM needs an even width."""
        for legal in range(width, width + TRIED):
            try:
                sizes[legal] = _num_weights(config, legal)
                return sizes[legal]
            except ValueError as error:
                reason = error
        raise UserError(f"${{units_for:{wanted}}}: no network can be built: {reason}")

    most = 2
    while size(most) < wanted and most < wanted:
        most *= 2
    bisect_left(range(1, most), wanted, key=size)
    return min(sizes, key=lambda width: abs(sizes[width] - wanted))


def _settings(config: DictConfig) -> dict[str, Any]:
    """The settings that the number of weights depends on, resolved, since they may refer to others."""
    groups = {group: OmegaConf.to_container(config[group], resolve=True) for group in ("model", "task", "network")}
    return groups | {"seed": config.seed}


def _num_weights(config: DictConfig, width: int) -> int:
    import torch  # takes a second to import

    config.model.hidden_size = width
    settings = _settings(config)

    def make(group: str, *given: Any) -> Any:
        keys = {key: value for key, value in settings[group].items() if key != "_target_"}
        return locate(str(settings[group]["_target_"]), group)(*given, **keys)

    with torch.random.fork_rng(devices=[]):
        task = make("task", settings["seed"])
        network = make("network", task.input_spec, task.output_spec, lambda size: make("model", size))
    return sum(weights.numel() for weights in network.parameters() if weights.requires_grad)
