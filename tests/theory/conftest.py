"""A random number generator with the same seed in every test."""

import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(5)
