"""Shows the kernel that is generated from a model's step: the step, the plan and the C++.

    python scripts/kernel.py model=gru
    python scripts/kernel.py model=lstm model.hidden_size=100 task=copying

The arguments are those of `python -m src.train`. The plan says what is saved for the backward pass, and which loops and
products each pass consists of; the C++ is compiled at the first use of the model.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone, whichever one is installed

from src.config.compose import MULTIRUN
from src.config.errors import UserError, in_one_line
from src.running.show_kernel import main


def check_one_run(arguments: Sequence[str]) -> None:
    """Raise `UserError` if the arguments specify several runs."""
    for argument in arguments:
        several = argument in MULTIRUN
        with suppress(HydraException):  # a syntax error, which is explained later
            several = several or OverridesParser.create().parse_override(argument).is_sweep_override()
        if several:
            raise UserError(f"{argument}: one kernel is shown at a time; give each setting one value")


if __name__ == "__main__":
    with in_one_line():
        check_one_run(sys.argv[1:])
    main()
