"""The parts of a topic: claims, the numbers that test them, and figures."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from matplotlib.figure import Figure


class Claim(NamedTuple):
    """A statement and the number, computed in this run, that confirms or refutes it."""

    statement: str
    """One sentence, true if `holds`."""
    source: str
    """Where it is stated or proved."""
    expected: float | str
    """The value, or bound, from a closed form, a theorem or the literature."""
    measured: float | str
    """The value computed by this run."""
    tolerance: str
    """How far apart the two may be, and why: "0.02: four standard errors"."""
    holds: bool
    """Whether the numbers confirm the statement."""
    refuted: str = ""
    """The statement as printed, if this run shows it to be wrong; otherwise empty. Verbatim if in quotation marks."""
    reading: bool = False
    """Whether `refuted` is one way of reading a printed statement that leaves something open."""


def num_wrong_in_print(claims: Iterable[Claim]) -> int:
    """The number of distinct printed statements that are wrong, without those that are wrong only in one reading."""
    return len({claim.refuted for claim in claims if claim.refuted and not claim.reading})


class Demonstration(NamedTuple):
    """One figure with its claims. A topic is a module with a tuple of these named `DEMONSTRATIONS`.

    `run` computes a result, a dataclass or named tuple of numbers and arrays with a field `claims`; all its parameters
    have defaults. `draw` turns this result into a figure and computes nothing.
    """

    name: str
    """File name of the figure, without its suffix."""
    run: Callable[..., Any]
    draw: Callable[[Any], Figure]
