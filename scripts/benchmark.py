"""Time, memory and arithmetic of every model, compared with torch's recurrent layers in the same process.

    python scripts/benchmark.py                                             every model at 50 and 100 units
    python scripts/benchmark.py --quick                                     a first look, within a minute
    python scripts/benchmark.py --models gru --lengths 11 50 200 --kernels fused vectorized --figure gru.png
    python scripts/benchmark.py --features 1 --models lstm irnn --hidden-sizes 100 --lengths 784
    python scripts/benchmark.py --recurrence --hidden-sizes 16 32 --lengths 112 --batch-size 64
    python scripts/benchmark.py --text --hidden-sizes 128 --lengths 100 --batch-size 100 --rank 32
    python scripts/benchmark.py --catch --models fastweights lstm rnn --hidden-sizes 128 --lengths 16 --batch-size 64

An update is the forward and backward pass of one batch, gradient clipping and a step of Adam. Every network has an
embedding of size 100 before it, and 100 ReLU units and 10 classes after the last step. Length 11 is associative
retrieval; other lengths are random sequences of its 37 symbols. Everything is in float32, and times are medians (IQR:
interquartile range).

With --features X the inputs are vectors of X random numbers instead, and there is no embedding; X = 1 is as in images
that are read pixel by pixel. Only updates are measured.

With --text an update is that of a language model instead: an embedding of size 32, a linear head to 82 symbols at every
step, and a state that is carried from window to window.

With --catch an update plays T steps of Catch, with 128 ReLU units between screen and model, and is compared with a
plain loop of modules that plays step by step with gradients (loop/: how many times longer the loop takes; clipping and
the optimizer step are the same in both).

With --recurrence the linear recurrence of one head with H key and value features is measured alone, forward and
backward, as a kernel, in chunks and as a scan: that of linear_attention (no decay), retnet (one decay), gla (a decay
for every feature), and deltanet, gated_deltanet and kda, which also erase; in processor time, on one thread. Then come
whole updates on stacked_recall and mqar of about as many steps, and "outside", the same updates without any recurrence.

Ratios compare a model with torch's layer of the same kind (/own: nn.RNN with relu, nn.LSTM, nn.GRU) and with nn.LSTM,
at the same width. rnn also uses relu here; gru resets before the recurrent product, nn.GRU after it. Since the load on
the machine varies, all functions are interleaved over several rounds, and a ratio is the median over rounds.

kernel      the fused recurrence alone, forward and backward, on a table with ids; GFLOP/s counts `Core.flops`
of_sgemm    this rate as a share of that of a square float32 matrix product on the same number of threads
outside     an update as in training, timed by a clock that stops while compiled code of src/ops runs; this and the next
            two are processor time, so time taken by other processes does not count
            (for fast weights on sequences of several chunks it includes what torch computes between chunks)
plain       an update in plain PyTorch of the same network without its recurrence, on the last symbol, with
            torch.optim.Adam and clip_grad_norm_ over all parameters. It projects to as many features as the model
            (P = 4H for an LSTM), of which the first H enter the head. /plain: outside relative to it
paused      the same as plain, except that the fused kernel runs, untimed, where the recurrence would be. This is the
            fair comparison: after a pause, busy or idle, everything is slower. /paused: outside relative to it
memory      bytes saved for the backward pass per sequence, counted with torch.autograd.graph.saved_tensors_hooks: every
            storage that autograd saves in a forward pass, counted once, without parameters, divided by the batch size
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from matplotlib import colormaps
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from rich import box
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone, whichever one is installed

from src.benchmarks import episodes, recurrence, text
from src.benchmarks.updates import MODELS, measure
from src.config.errors import UserError, in_one_line
from src.ops.cpu import calls
from src.running.provenance import provenance
from src.utils.console import CommandLine, print_table, printing
from src.utils.files import write_whole

NAMES = sorted(path.stem for path in MODELS.glob("*.yaml"))
STYLES = {"auto": "-", "fused": "--", "vectorized": "-.", "reference": ":"}  # line style of each kernel
AXES = ("threads", "length", "hidden_size", "model", "kernel")  # axes of the grid
GRID = {"model": NAMES, "hidden_size": [50, 100], "length": [11], "kernel": ["auto"], "threads": [1]}
DEFAULTS = GRID | {"batch_size": 128, "seconds": 5.0, "rounds": 7}
QUICK = {"model": ["fastweights", "lstm"], "hidden_size": [50], "length": [11, 50], "seconds": 2.0, "rounds": 4}

IN_CHUNKS, WITH_RANK = "has no effect without --recurrence", "has no effect without --text"
OWN_INPUTS, FORMS = "not with --text or --catch, which have inputs of their own", "has no effect with --recurrence"
NO_LSTM = "shows nn.LSTM beside each model, which --{} does not measure"
UNUSED = {
    "": {"chunk_size": IN_CHUNKS, "rank": WITH_RANK},
    "text": {"chunk_size": IN_CHUNKS, "features": OWN_INPUTS},
    "catch": {"chunk_size": IN_CHUNKS, "rank": WITH_RANK, "features": OWN_INPUTS, "figure": NO_LSTM.format("catch")},
    "recurrence": dict.fromkeys(("threads", "kernel", "features", "rank"), FORMS)
    | {"figure": NO_LSTM.format("recurrence")},
}
"""Why an option is refused, by the mode that is asked for; "" is the default."""

CELL = "model=model kernel=kernel H=hidden_size T=length thr.=threads "  # columns of the tables: header=key of the row
UPDATES = """ms=update_ms IQR=update_iqr_ms seq./s=sequences_per_second /own=ratio_to_own_layer /LSTM=ratio_to_lstm
    memory=saved_bytes_per_sequence state=state_size"""
CATCH = "ms=update_ms IQR=update_iqr_ms actions/s=actions_per_second loop=loop_ms loop/=ratio_of_loop"
FUSED = """ms=kernel_ms GFLOP/s=kernel_gflop_per_second of_sgemm=kernel_share_of_sgemm outside=outside_ms
    /plain=ratio_outside_to_plain /paused=ratio_outside_to_paused"""


def make_table(title: str, columns: str, rows: Sequence[dict[str, Any]]) -> Table:
    """A table that fits in 80 columns."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    headers, keys = zip(*(column.split("=") for column in columns.split()), strict=True)
    for header in headers:
        table.add_column(header, justify="left" if header in ("model", "kernel") else "right", no_wrap=True)
    for row in rows:
        shown = (f"{row[key]:.{2 if row[key] < 100 else 0}f}" if type(row[key]) is float else row[key] for key in keys)
        table.add_row(*("" if value is None else str(value) for value in shown))
    return table


def make_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Time per update against H and against T, with the other fixed at its first value; legible without color."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    names = {"hidden_size": "units H", "length": "steps T"}
    models = sorted({row["model"] for row in rows})
    for axes, along, fixed in zip(panels, names, reversed(names), strict=True):
        shown = [row for row in rows if all(row[key] == rows[0][key] for key in (fixed, "threads"))]
        ticks = sorted({row[along] for row in shown})
        for (number, model), kernel in product(enumerate(models), dict.fromkeys(row["kernel"] for row in rows)):
            times = {row[along]: row["update_ms"] for row in shown if (row["model"], row["kernel"]) == (model, kernel)}
            look = {"color": colormaps["viridis"](0.85 * number / len(models)), "marker": "osD^vP"[number % 6]}
            axes.plot(ticks, [times[tick] for tick in ticks], STYLES[kernel], label=f"{model}, {kernel}", **look)
        yardstick = [median(row["nn.LSTM_ms"] for row in shown if row[along] == tick) for tick in ticks]
        axes.plot(ticks, yardstick, color="0.75", linewidth=5, zorder=1, marker="_", markersize=16, label="nn.LSTM")
        axes.set(xscale="log", yscale="log", xlabel=names[along])
        axes.set_title(f"{names[fixed]} = {rows[0][fixed]}, threads = {rows[0]['threads']}")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.xaxis.minorticks_off()
    panels[0].set_ylabel(f"ms per update of {rows[0]['batch_size']} sequences")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", handlelength=4)
    return figure


def parse() -> argparse.Namespace:
    """The arguments of the command."""
    parser = CommandLine(description=__doc__)
    add, many = parser.add_argument, partial(parser.add_argument, nargs="+")
    many("--models", dest="model", choices=NAMES, metavar="MODEL", help=", ".join(NAMES))
    many("--hidden-sizes", dest="hidden_size", type=int, metavar="H", help="units, default 50 100")
    many("--lengths", dest="length", type=int, metavar="T", help="steps, default 11")
    many("--kernels", dest="kernel", choices=STYLES, metavar="KERNEL", help=", ".join(STYLES))
    many("--threads", type=int, metavar="N", help="default 1")
    add("--batch-size", type=int, metavar="B", help="default 128")
    add("--seconds", type=float, metavar="S", help="measuring time per row, default 5")
    add("--rounds", type=int, metavar="N", help="number of rounds that this time is divided into, default 7")
    add("--text", action="store_true", help="updates of a language model, with an answer at every step")
    add("--features", type=int, metavar="X", help="vectors of X numbers instead of tokens")
    add("--catch", action="store_true", help="updates of networks that play Catch, next to the plain loop")
    add("--recurrence", action="store_true", help="the linear recurrence alone, in each of its forms")
    add("--chunk-size", type=int, metavar="C", help="with --recurrence, steps per chunk; default: that of their files")
    add("--rank", type=int, metavar="R", help="with --text, rank of models that have one; default: that of their files")
    add("--quick", action="store_true", help="a small grid and short times; other options still apply")
    add("--json", type=Path, metavar="FILE", help="write all numbers and their provenance")
    add("--figure", type=Path, metavar="FILE.png", help="plot the time per update against H and against T")
    arguments = parser.parse_args()
    if arguments.text + arguments.catch + arguments.recurrence > 1:
        parser.error("--text, --catch and --recurrence cannot be combined")
    mode = next((name for name in UNUSED if name and getattr(arguments, name)), "")
    for name, reason in UNUSED[mode].items():
        if getattr(arguments, name) is not None:
            option = {"chunk_size": "chunk-size", "kernel": "kernels"}.get(name, name)
            parser.error(f"--{option}: {reason}")
    defaults = DEFAULTS | (QUICK if arguments.quick else {})
    defaults |= {"model": list(recurrence.RECURRENCES)} if arguments.recurrence else {}
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    several = {"hidden-sizes": arguments.hidden_size, "lengths": arguments.length, "threads": arguments.threads}
    single = ("batch_size", "rounds", "rank", "features", "chunk_size")
    for option, numbers in (several | {name.replace("_", "-"): [getattr(arguments, name)] for name in single}).items():
        for number in numbers:
            if number is not None and number < 1:
                parser.error(f"--{option} {number}: must be at least 1")
    if not 0 < arguments.seconds < math.inf:
        parser.error(f"--seconds {arguments.seconds}: must be above 0 and finite")
    if arguments.catch and min(arguments.length) < 2:
        parser.error("--lengths: must be 2 or more with --catch")
    if arguments.recurrence and min(arguments.length) < recurrence.SHORTEST:
        parser.error(f"--lengths: must be {recurrence.SHORTEST} or more with --recurrence")
    others = [model for model in arguments.model if model not in recurrence.RECURRENCES]
    if arguments.recurrence and others:
        legal = ", ".join(recurrence.RECURRENCES)
        parser.error(f"--models {' '.join(others)}: no linear recurrence to measure; legal: {legal}")
    if "fused" in arguments.kernel and not calls.available(torch.empty(0)):
        parser.error("--kernels: the fused kernels cannot be compiled here")
    for option, path in (("json", arguments.json), ("figure", arguments.figure)):
        if path and path.is_dir():
            parser.error(f"--{option} {path}: is a folder")
        if path and not path.parent.is_dir():
            parser.error(f"--{option} {path}: there is no folder {path.parent}")
    if arguments.figure and arguments.figure.suffix != ".png":
        parser.error(f"--figure {arguments.figure}: must end in .png")
    if arguments.json and arguments.json == arguments.figure:
        parser.error(f"--json and --figure: {arguments.json} cannot be both")
    return arguments


def write_json(path: Path, rows: Sequence[dict[str, Any]], threads: int) -> None:
    """Write all numbers and their provenance."""
    content = json.dumps({"provenance": provenance(threads, "cpu"), "rows": rows}, indent=2)
    write_whole(path, f"{content}\n".encode())


def measure_recurrences(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the linear recurrences of the models that have one, print the tables, and return their rows."""
    how = arguments.chunk_size, arguments.rounds, arguments.seconds
    names = [name for name in recurrence.RECURRENCES if name in arguments.model]
    cells = list(product(arguments.length, arguments.hidden_size, names))
    rows = [
        recurrence.measure(name, arguments.batch_size, length, size, *how)
        for length, size, name in track(cells, transient=True)
    ]
    forms = [key.removesuffix("_ms") for key in rows[0] if key.endswith("_ms") and key != "rounds_ms"]
    columns = " ".join(
        [*(f"{form},ms={form}_ms" for form in forms), *(f"{f}/{forms[0]}=ratio_of_{f}" for f in forms[1:])]
    )
    title = f"The linear recurrence on {arguments.batch_size} sequences, forward and backward"
    print_table(make_table(title, f"model=model d=size T=length {columns}", rows))
    updates = [
        row
        for length, size, name in track(cells, transient=True)
        for row in recurrence.measure_updates(name, arguments.batch_size, length, size, *how[1:])
    ]
    columns = " ".join(
        [*(f"{form},ms={form}_ms" for form in (*forms, "outside")), *(f"{f}/=ratio_of_{f}" for f in forms[1:])]
    )
    for task in dict.fromkeys(row["task"] for row in updates):
        of_task = [row for row in updates if row["task"] == task]
        print_table(make_table(f"Whole updates on {task}", f"model=model d=size {columns}", of_task))
    return [*rows, *updates]


@printing()
def main() -> None:
    """The command."""
    with in_one_line():
        try:
            benchmark(parse())
        except InstantiationException as error:
            if isinstance(error.__cause__, ValueError):  # a size that a model refuses
                raise UserError(error.__cause__) from None
            raise


def benchmark(arguments: argparse.Namespace) -> None:
    """Measure, print, write and draw what the arguments ask for."""
    if arguments.recurrence:
        rows = measure_recurrences(arguments)
        if arguments.json:
            write_json(arguments.json, rows, 1)
        return
    for model, size in product(arguments.model, arguments.hidden_size):
        with torch.device("meta"):  # a size that a model refuses is found before anything is measured
            instantiate(OmegaConf.load(MODELS / f"{model}.yaml"), 100, hidden_size=size)
    cells = [dict(zip(AXES, values, strict=True)) for values in product(*(getattr(arguments, axis) for axis in AXES))]
    how = arguments.batch_size, arguments.rounds, arguments.seconds
    measured: Callable[..., dict[str, Any]] = partial(measure, features=arguments.features)
    if arguments.text:
        measured = partial(text.measure, rank=arguments.rank)
    measured = episodes.measure if arguments.catch else measured
    rows = [measured(cell, *how) for cell in track(cells, transient=True)]
    what = "episodes" if arguments.catch else "sequences"
    columns = CELL + (CATCH if arguments.catch else UPDATES)
    print_table(make_table(f"Updates of {arguments.batch_size} {what}", columns, rows))
    if fused := [row for row in rows if "kernel_ms" in row]:
        print_table(make_table("The fused kernel alone, and everything outside it", CELL + FUSED, fused))
    if arguments.json:
        write_json(arguments.json, rows, max(arguments.threads))
    if arguments.figure:
        make_figure(rows).savefig(arguments.figure, dpi=150, format="png")


if __name__ == "__main__":
    main()
