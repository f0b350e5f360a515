"""Search over ranges with a fixed budget, in Hydra's notation.

    python scripts/search.py name=lr model=lstm 'optimizer.lr=tag(log, interval(1e-4, 1e-2))' --trials 20
    python scripts/search.py name=gru model=gru 'optimizer.lr=tag(log, interval(1e-4, 1e-2))' \\
        'model.hidden_size=choice(20, 50)' 'trainer.batch_size=int(interval(16, 256))' \\
        --trials 50 --sampler tpe --seed 1 --workers 2 --prune

Every trial is an ordinary run in outputs/<name>/. The same command resumes: ended runs are kept, interrupted ones
continue from their checkpoint, and --trials includes those of earlier calls, so a larger number adds more. A diverged
run counts as the worst result; a failed one only counts toward the budget. At the end the table of `scripts/report.py`
is printed, which also draws figures.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone, whichever one is installed

from src.config import errors
from src.config.errors import UserError
from src.utils import supervisor
from src.utils.console import CommandLine, printing

MISSING = "this needs Optuna: pip install -e '.[optuna]'"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(description=__doc__)
    parser.add_argument("overrides", nargs="+", metavar="key=value", help="settings and ranges, as for src.train")
    parser.add_argument("--trials", type=_positive, required=True, help="how many, with those of earlier calls")
    parser.add_argument("--sampler", choices=["random", "tpe"], default="random", help="(default: random)")
    parser.add_argument("--seed", type=_seed, default=0, help="seed of the proposals (default: 0)")
    parser.add_argument("--workers", type=_positive, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--prune", action="store_true", help="stop runs that are worse than the median of the others")
    return parser.parse_intermixed_args(arguments)


def _positive(text: str) -> int:
    return _at_least(1, text)


def _seed(text: str) -> int:
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or not least <= int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"{text}: must be an integer, at least {least}, below {2**32}")
    return int(text)


@printing()
def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = vars(parse(arguments))
    with errors.in_one_line():
        supervisor.supervise()
        try:
            import optuna  # noqa: F401
        except ModuleNotFoundError:
            raise UserError(MISSING) from None

        from src.sweeping.search import Options, search

        status = search(options.pop("overrides"), Options(**options))
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
