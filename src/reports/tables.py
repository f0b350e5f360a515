"""Tables shown at the end of a run or a sweep."""

import csv
import io
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box, get_console
from rich.markup import escape
from rich.table import Column, Table

from src.config.settings import as_typed
from src.utils.console import print_table


def show_metrics(
    splits: Mapping[str, Mapping[str, float]], floors: Mapping[str, Mapping[str, float]], title: str
) -> None:
    """Print the metrics of some splits above the floors of the task."""
    names = list(dict.fromkeys(name for metrics in splits.values() for name in metrics))
    get_console().print(title, style="italic", markup=False, highlight=False, soft_wrap=True)
    table = Table("", *map(escape, names))
    for split, metrics in splits.items():
        table.add_row(split, *(number(metrics.get(name)) for name in names), style="bold")
    table.add_section()
    for description, floor in floors.items():
        table.add_row(escape(description), *(number(floor.get(name)) for name in names))
    print_table(table)


def show_run(result: Mapping[str, Any], folder: Path) -> None:
    """Print the metrics, floors, sizes and speed of a finished run."""
    splits: dict[str, dict[str, float]] = {}
    for tag, value in result["metrics"].items():
        split, _, name = tag.partition("/")
        splits.setdefault(split, {})[name] = value
    note = result["config"].get("note")
    show_metrics(splits, result["floors"], f"{result['status']}: {result['reason']}" + (f"\n{note}" if note else ""))
    get_console().print(
        f"{result['num_parameters']} parameters, state size {result['state_size']}; weights of update "
        f"{result['selected_update']} of {result['updates']}; {result['seconds']:.1f} s of training "
        f"({result['updates_per_second']:.0f} updates/s)\n"
        f"{folder}\ntensorboard --logdir {shlex.quote(str(folder.parent))}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def one_line(result: Mapping[str, Any], name: str) -> str:
    """One line on how a run ended, for the log of a sweep."""
    if result.get("metrics"):
        metrics = "  ".join(f"{tag} {number(value)}" for tag, value in result["metrics"].items())
        return f"{name}: {result['status']}  {metrics}  ({result['seconds']:.0f} s)"
    return f"{name}: {result['status']}, {result['reason']}"


def sweep_table(rows: Sequence[Mapping[str, Any]], breaks: str = "/.") -> Table:
    """The rows of a sweep for the terminal; headers are broken after each of the characters in `breaks`."""
    columns = _columns(rows)
    headers = [escape(re.sub(f"([{breaks}])", r"\1\n", column)) for column in columns]
    table = Table(*(Column(header, no_wrap=True) for header in headers), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*(escape(number(row.get(column))) for column in columns))
    return table


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of a sweep with all digits."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of a sweep as a Markdown table."""
    columns = _columns(rows)
    lines = [list(map(escaped, columns)), ["---"] * len(columns)]
    lines += [[escaped(number(row.get(column))) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def escaped(text: str) -> str:
    """A text as one line of Markdown that is shown verbatim: it begins no cells, tags or entities."""
    text = " ".join(text.splitlines()).replace("|", "\\|")
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", text))


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def number(value: Any) -> str:
    """A table cell: a float with a readable number of digits, anything else as on the command line."""
    if value is None:
        return ""
    if isinstance(value, float):
        if 10 <= abs(value) < 1000:
            return f"{value:.2f}"
        return f"{value:.4f}" if 0.0001 <= abs(value) < 10 else f"{value:.2g}"
    return as_typed(value)
