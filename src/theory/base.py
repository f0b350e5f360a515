"""What a topic consists of: claims with the numbers that decide them, and the figures that show them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from matplotlib.figure import Figure


class Claim(NamedTuple):
    """A statement and the number, computed in this run, that confirms or refutes it."""

    statement: str
    """One sentence, true if `holds`."""
    source: str
    """Where it is made or proved."""
    expected: float | str
    """From a closed form, a theorem or the literature."""
    measured: float | str
    """By this run."""
    tolerance: str
    """How far the two may be apart, and why: "0.02: four standard errors"."""
    holds: bool
    """Whether the statement stands."""
    refuted: str = ""
    """The form in which the statement was printed and which this run shows to be wrong; empty if it was right."""


class Demonstration(NamedTuple):
    """One figure with its claims. A topic is a module with a tuple of these named `DEMONSTRATIONS`.

    `run` computes a result from settings that all have defaults: a dataclass or named tuple of numbers and arrays with
    a field `claims`. `draw` makes the figure of such a result, and computes nothing.
    """

    name: str
    """Of the figure's file."""
    run: Callable[..., Any]
    draw: Callable[[Any], Figure]
