"""A random network and its forward pass."""

import numpy as np
import pytest

from src.theory.bptt import jacobians


@pytest.fixture
def passed():
    """`passed(seed)` returns a random network and its forward pass over a random sequence."""

    def run(seed, zero_start=False, num_steps=6):
        network = jacobians.random_network(seed, zero_start=zero_start)
        x_TN = np.random.default_rng([seed, 9]).standard_normal((num_steps, 4))
        return network, jacobians.run_forward(network, x_TN, np.eye(3)[seed % 3])

    return run
