"""As for the kernels written by hand: float64, and a compiler."""

from tests.ops.cpu.conftest import _compiled, _exact  # noqa: F401
