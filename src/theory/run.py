"""Run the theory topics: test their claims, draw their figures, and write a page for each.

    python scripts/theory.py                                              all topics
    python scripts/theory.py hopfield latching                            some of them
    python scripts/theory.py gradient_flow run=outputs/runs/<run>         a topic with one of its settings

A topic is a module or package in `src.theory` with DEMONSTRATIONS. The output folder receives its figures, a page
`<topic>.md`, and `claims.csv` with all claims, in which the rows of topics not run this time stay. The exit status is 1
if a claim does not hold.
"""

import argparse
import csv
import importlib
import inspect
import io
import multiprocessing
import os
import pkgutil
import sys
import time
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge
from matplotlib.image import imread
from rich import box, get_console
from rich.markup import escape
from rich.table import Column, Table

import src.theory
from src.config.errors import UserError, choose, explain, in_one_line
from src.config.schema import describe, is_legal
from src.theory.base import Claim, Demonstration, num_wrong_in_print
from src.utils.console import CommandLine, printing
from src.utils.files import write_whole

PAGES = Path(__file__).with_name("pages")
OUTPUT = Path("outputs/theory")
DOTS_PER_INCH = 200
COLUMNS = ["topic", "demonstration", *Claim._fields]
"""Columns of `claims.csv`."""


class Finished(NamedTuple):
    """A finished demonstration: its claims, the file of its figure, and the seconds it took."""

    name: str
    claims: tuple[Claim, ...]
    figure: Path
    seconds: float


def find_topics() -> dict[str, tuple[Demonstration, ...]]:
    """The demonstrations of every topic, by module name."""
    names = sorted(module.name for module in pkgutil.iter_modules(src.theory.__path__))
    return {name: found for name in names if (found := demonstrations(name))}


def demonstrations(topic: str) -> tuple[Demonstration, ...]:
    """The demonstrations of one module; empty if it is not a topic."""
    return getattr(importlib.import_module(f"src.theory.{topic}"), "DEMONSTRATIONS", ())


def headline(topic: str) -> str:
    """The first line of a topic's docstring."""
    return (importlib.import_module(f"src.theory.{topic}").__doc__ or "").strip().partition("\n")[0]


def settings_of(demonstration: Demonstration) -> dict[str, inspect.Parameter]:
    """The settings of a demonstration that can be given on the command line: those that default to a number or string.

    A default of None stands for a string.
    """
    parameters = inspect.signature(demonstration.run).parameters
    return {name: p for name, p in parameters.items() if p.default is None or isinstance(p.default, int | float | str)}


def parse_settings(texts: Mapping[str, str], topics: Mapping[str, Sequence[Demonstration]]) -> dict[str, Any]:
    """Convert settings to the types of their defaults.

    Raises:
        UserError: no selected topic has the setting, or its value is missing, of another type or not legal.
    """
    found = [item for group in topics.values() for one in group for item in settings_of(one).items()]
    legal = dict(found)
    values: dict[str, Any] = {}
    for name, text in texts.items():
        if name not in legal:
            raise UserError(f"{name} is not a setting of {', '.join(topics)}{choose(name, legal)}")
        if not text:
            raise UserError(f"{name}=: needs a value")
        kind = str if legal[name].default is None else type(legal[name].default)
        for hint in (hint_of(parameter) for other, parameter in found if other == name):
            with suppress(ValueError):
                values[name] = kind(text)
            if not is_legal(values.get(name), hint):
                raise UserError(f"{name}={text}: must be {describe(hint)}")
    return values


def hint_of(parameter: inspect.Parameter) -> Any:
    """The annotation that says what is legal: its own; without bounds, an integer is at least 1, and a seed 0."""
    if parameter.annotation is int:
        return Annotated[int, Ge(int(parameter.name != "seed"))]
    return parameter.annotation


def run_topic(topic: str, settings: Mapping[str, Any], folder: Path) -> list[Finished]:
    """Compute and draw one topic, then write its figures and its page."""
    finished, figures = [], {}
    for demonstration in demonstrations(topic):
        given = {name: settings[name] for name in settings_of(demonstration) if name in settings}
        start = time.perf_counter()
        try:
            result = demonstration.run(**given)
            buffer = io.BytesIO()
            demonstration.draw(result).savefig(buffer, dpi=DOTS_PER_INCH, format="png", bbox_inches="tight")
        except Exception as error:
            if not given or isinstance(error, UserError | OSError):
                raise
            shown = " ".join(f"{name}={value}" for name, value in given.items())
            raise UserError(f"{topic} {shown}: {explain(error)}") from error
        path = folder / f"{demonstration.name}.png"
        figures[path] = buffer.getvalue()
        finished.append(Finished(demonstration.name, tuple(result.claims), path, time.perf_counter() - start))
    text = page(topic, finished)
    for path, figure in figures.items():
        write_whole(path, figure)
    write_whole(folder / f"{topic}.md", text.encode())
    return finished


def page(topic: str, finished: Sequence[Finished]) -> str:
    """The page of a topic in Markdown: its text, its figures, and the table of its claims."""
    text = text_of(topic).rstrip()
    figures = "\n\n".join(f"![{one.name.replace('_', ' ')}]({one.figure.name})" for one in finished)
    lines = ["| claim | source | expected | measured | tolerance | holds |", "| --- | --- | --- | --- | --- | --- |"]
    for claim in (claim for one in finished for claim in one.claims):
        printed = f"<br>*Refuted {_as(claim)}:* {claim.refuted}" if claim.refuted else ""
        verdict = "yes" if claim.holds else "**no**"
        numbers = number(claim.expected), number(claim.measured)
        fields = claim.statement + printed, claim.source, *numbers, claim.tolerance, verdict
        lines.append("| " + " | ".join(field.replace("|", "\\|") for field in fields) + " |")
    return f"{text}\n\n## Figures\n\n{figures}\n\n## Claims\n\n" + "\n".join(lines) + "\n"


def _as(claim: Claim) -> str:
    return "as it can be read" if claim.reading else "as printed"


def text_of(topic: str) -> str:
    """The text of a topic from `pages`, or the docstring of its module if there is no text."""
    path = PAGES / f"{topic}.md"
    if path.exists():
        return path.read_text(encoding="utf-8")
    return f"# {topic.replace('_', ' ').capitalize()}\n\n{importlib.import_module(f'src.theory.{topic}').__doc__}"


def number(value: float | str) -> str:
    """A number to four significant digits; a string unchanged."""
    return value if isinstance(value, str) else f"{value:.4g}"


def run_all(
    topics: Sequence[str], settings: Mapping[str, Any], folder: Path, processes: int
) -> Iterator[tuple[str, list[Finished]]]:
    """Run the topics in up to `processes` processes at a time, and yield each one when it is finished."""
    if processes == 1 or len(topics) == 1:
        for topic in topics:
            yield topic, run_topic(topic, settings, folder)
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # the processes share the cores
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        jobs = {pool.submit(run_topic, topic, settings, folder): topic for topic in topics}
        for job in as_completed(jobs):
            yield jobs[job], job.result()


def claims_table(topic: str, finished: Sequence[Finished]) -> Table:
    """The claims of a topic as a table for the terminal, with expected and measured values and verdicts."""
    title = f"{topic} ({sum(one.seconds for one in finished):.0f} s)"
    columns = (Column("claim", ratio=5), Column("expected", ratio=1), Column("measured", ratio=1), Column("holds"))
    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), expand=True)
    for claim in (claim for one in finished for claim in one.claims):
        printed = f"\n[dim]refuted {_as(claim)}: {escape(claim.refuted)}[/dim]" if claim.refuted else ""
        fields = escape(claim.statement) + printed, escape(number(claim.expected)), escape(number(claim.measured))
        table.add_row(*fields, "yes" if claim.holds else "NO", style="" if claim.holds else "bold red")
    return table


def claims_csv(rows: Mapping[str, Sequence[Sequence[Any]]]) -> str:
    """The text of `claims.csv`: the rows of all topics in alphabetical order."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row for topic in sorted(rows) for row in rows[topic])
    return buffer.getvalue()


def rows_of(topic: str, group: Sequence[Finished]) -> list[list[Any]]:
    """The rows of a topic in `claims.csv`, with all digits of the numbers."""
    return [[topic, one.name, *claim] for one in group for claim in one.claims]


def read_rows(path: Path, topics: Container[str]) -> dict[str, list[list[str]]]:
    """The rows of these topics in a `claims.csv`, by topic; none if there is no such file.

    Raises:
        UserError: the file was not written by this command.
    """
    rows: dict[str, list[list[str]]] = {}
    if not path.exists():
        return rows
    try:
        header, *lines = csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), strict=True)
    except (ValueError, csv.Error):  # an empty file, bytes that are not UTF-8, or unbalanced quotes
        header, lines = [], []
    if header != COLUMNS or any(len(line) != len(COLUMNS) for line in lines):
        raise UserError(f"{path}: not a table of claims; remove it, or choose another --output")
    for line in lines:
        if line[0] in topics:
            rows.setdefault(line[0], []).append(line)
    return rows


def show_in_tensorboard(results: Mapping[str, Sequence[Finished]], folder: Path) -> None:
    """Write the figures as images to event files, one tag each."""
    from torch.utils.tensorboard import SummaryWriter  # takes seconds to import, in every process

    with SummaryWriter(str(folder)) as writer:
        for topic, group in results.items():
            for one in group:
                writer.add_image(f"{topic}/{one.name}", imread(one.figure)[..., :3], 0, dataformats="HWC")


class ListTopics(argparse.Action):
    """The action of `--help`, which has to import the topics to list them."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        topics = find_topics()
        width = max(map(len, topics))
        lines = "\n".join(f"  {topic:{width}}  {headline(topic)}" for topic in topics)
        get_console().print(f"{parser.format_help()}\ntopics:\n{lines}", markup=False, highlight=False, soft_wrap=True)
        parser.exit()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = CommandLine(prog="theory.py", description=__doc__, add_help=False)
    parser.add_argument("words", nargs="*", metavar="topic | key=value", help="topics to run, and their settings")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FOLDER", help=f"default: {OUTPUT}")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="topics at a time; default: 2")
    parser.add_argument("--tensorboard", action="store_true", help="also write the figures as event files to FOLDER")
    parser.add_argument("-h", "--help", action=ListTopics, nargs=0, help="show this and the topics")
    return parser.parse_intermixed_args(arguments)  # options may come between topics and settings


def run(arguments: argparse.Namespace) -> bool:
    """Run what the command line asks for; return whether every claim holds."""
    topics = find_topics()
    names = [word for word in arguments.words if "=" not in word] or list(topics)
    for name in names:
        if name not in topics:
            raise UserError(f"{name} is not a topic{choose(name, topics)}")
    pairs = [word.split("=", 1) for word in arguments.words if "=" in word]
    texts = dict(pairs)
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise UserError(f"{key}: given {count} times")
    names = list(dict.fromkeys(names))
    settings = parse_settings(texts, {name: topics[name] for name in names})
    if arguments.processes < 1:
        raise UserError(f"--processes {arguments.processes}: must be at least 1")
    arguments.output.mkdir(parents=True, exist_ok=True)
    table = arguments.output / "claims.csv"
    rows: dict[str, list[list[Any]]] = read_rows(table, topics.keys() - names) if len(names) < len(topics) else {}

    results: dict[str, list[Finished]] = {}
    for topic, finished in run_all(names, settings, arguments.output, arguments.processes):
        results[topic] = finished
        get_console().print(claims_table(topic, finished))
    results = {name: results[name] for name in names}
    rows |= {name: rows_of(name, group) for name, group in results.items()}
    write_whole(table, claims_csv(rows).encode())
    if arguments.tensorboard:
        show_in_tensorboard(results, arguments.output)
    claims = [claim for group in results.values() for one in group for claim in one.claims]
    failed = sum(not claim.holds for claim in claims)
    wrong = num_wrong_in_print(claims)
    summary = f"claims: {len(claims)}, holding: {len(claims) - failed}; statements wrong in print: {wrong}"
    get_console().print(f"{summary}\n{arguments.output}", markup=False, highlight=False, soft_wrap=True)
    return not failed


@printing()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; its exit status is 1 if a claim does not hold or the command fails."""
    with in_one_line():
        hold = run(parse(arguments))
    if not hold:
        sys.exit(1)
