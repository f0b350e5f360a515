"""The report of a reproduction: tables, figures, verdicts, and the provenance of the numbers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from src.config.errors import UserError
from src.reports.tables import to_markdown
from src.reproduction.base import MEASURED, Evidence, Reproduction
from src.reproduction.effects import CONFIDENCE
from src.reproduction.record import RECORD, gather, write_record
from src.reproduction.replay import SIMD, first_updates
from src.reproduction.reproduce import PAPERS, Budget, evidence_of_runs, find, folders_of, runs_of
from src.results.stored import read_json
from src.utils.files import write_whole

FIRST_UPDATES = "first_updates.csv"
DIGITS = "%.7g"
EFFECT = f"effect ({100 * CONFIDENCE:g} % interval)"
HOW_TO_READ_VERDICTS = (
    "A claim is reproduced if the interval of every effect lies entirely in the range that the claim predicts, not "
    "reproduced if the interval of any effect lies entirely outside, and otherwise inconclusive: these seeds do not "
    "decide it. Intervals are over seeds: Student's for a mean, Welch's for a difference, Wilson's for a share of runs "
    "and, for a ratio of numbers of updates, Welch's for their logarithms. In such a ratio, a run that never reached "
    "the goal counts with its length, so the interval is open on that side, and with few seeds its other end is only "
    "approximate. If all seeds agree to the last digit, the interval has zero width. The share of grid settings that "
    "solve a task is treated as if the settings had been drawn at random; for the best trials of a search, the trials "
    "are resampled and the best of each resample are taken (bootstrap). There is no correction for the number of "
    "claims, so a few verdicts out of several hundred will be wrong by chance."
)
HOW_TO_READ_EDGES = (
    '"Edge" marks a setting with the smallest or largest value that was tried, and every claim that depends on one: '
    "the error may be lower beyond it."
)

PROVENANCE = "provenance.json"


class Provenance(TypedDict):
    """Where the runs of a report come from."""

    command: str
    runs: int
    runs_that_count: int
    hours: float
    first: str
    last: str
    commits: list[str]
    processor: str
    threads: list[int]
    versions: dict[str, str]


ORIGIN = TypeAdapter(Provenance)


def claims_table(reproduction: Reproduction, evidence: Evidence) -> pd.DataFrame:
    """Every claim with its test, what was measured, the effects with their intervals, and the verdict."""
    rows = []
    for claim in reproduction.claims:
        found = claim.judge(evidence)
        row = {"claim": claim.statement, "source": claim.source, "holds if": claim.criterion}
        row |= {"measured": found.measured, EFFECT: found.effects}
        rows.append(row | {"verdict": found.verdict + ", edge" * found.edge})
    return pd.DataFrame(rows)


def make_report(name: str, budget: Budget, folder: Path, further: Sequence[str] = ()) -> None:
    """Write the report of the runs so far, with its data; `further` overrides may say where the runs are.

    Files: `report.md`, `table.csv` and `claims.csv`, which follow from the others; `runs.csv`, `curves.csv` and
    `measured.csv`, on the runs that count; the figures; `provenance.json`; `results.jsonl`, all runs, see
    `src.reproduction.record`; `first_updates.csv`, the first updates of some runs, for `check`.
    """
    reproduction = find(name)
    evidence = evidence_of_runs(name, budget, further)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "runs.csv", evidence.runs.to_csv(index=False, float_format=DIGITS).encode())
    write_whole(folder / "curves.csv", evidence.curves.to_csv(index=False, float_format=DIGITS).encode())
    if not evidence.measured.empty:
        write_whole(folder / MEASURED, evidence.measured.to_csv(index=False, float_format=DIGITS).encode())
    recorded = []
    for experiment, sweep in folders_of(reproduction, budget, further).items():
        runs, _ = runs_of(reproduction, experiment, budget, sweep)
        recorded += gather(sweep, runs, reproduction.curves)
    write_record(folder / RECORD, recorded)
    provenance = _provenance(name, budget, len(evidence.runs), [run.result for run in recorded])
    write_whole(folder / PROVENANCE, json.dumps(provenance, indent=2).encode())
    configs = {run.run: run.result["config"] for run in recorded}
    tag = reproduction.replayed_curve
    repeated = [
        first_updates(configs[run], tag).reset_index().assign(run=run, simd=SIMD)
        for run in replayed(reproduction, evidence)
    ]
    if repeated:
        write_whole(folder / FIRST_UPDATES, pd.concat(repeated).to_csv(index=False, float_format=DIGITS).encode())
    write_derived_files(name, folder)
    for title, draw in reproduction.figures.items():
        draw(evidence).savefig(folder / f"{title}.png", dpi=200)


def read_evidence(folder: Path) -> Evidence:
    """The evidence in a written report.

    Raises:
        UserError: there is no report.
    """
    try:
        measured = pd.read_csv(folder / MEASURED) if (folder / MEASURED).exists() else pd.DataFrame()
        runs = pd.read_csv(folder / "runs.csv", dtype={"edge": str}).fillna({"edge": ""})
        return Evidence(runs, pd.read_csv(folder / "curves.csv"), measured)
    except FileNotFoundError:
        raise UserError(f"{folder}: contains no report") from None


def derived_files(name: str, folder: Path) -> dict[str, str]:
    """The tables and the text of a report, which follow from its other files: {name of the file: content}."""
    reproduction, evidence = find(name), read_evidence(folder)
    table, claims = reproduction.table(evidence), claims_table(reproduction, evidence)
    return {
        "table.csv": table.to_csv(index=False),
        "claims.csv": claims.to_csv(index=False),
        "report.md": text_of_report(name, table, claims, folder),
    }


def write_derived_files(name: str, folder: Path) -> None:
    """Write the tables and the text of a report from its data."""
    for file, content in derived_files(name, folder).items():
        write_whole(folder / file, content.encode())


def replayed(reproduction: Reproduction, evidence: Evidence) -> list[str]:
    """The existing runs whose first updates `check` repeats."""
    runs = evidence.runs
    names = []
    for settings in reproduction.replayed:
        matching = runs[[all(row[key] == value for key, value in settings.items()) for _, row in runs.iterrows()]]
        names += matching["run"].tolist()[:1]
    return names


def text_of_report(name: str, table: pd.DataFrame, claims: pd.DataFrame, folder: Path) -> str:
    """The text of `report.md` in a folder: the provenance of the runs, the tables, the figures and the notes.

    Raises:
        UserError: the folder contains no provenance.
    """
    reproduction = find(name)
    provenance = read_json(folder / PROVENANCE, ORIGIN, 2**20)
    if provenance is None:
        raise UserError(f"{folder}: contains no {PROVENANCE} that says where the runs come from")
    parts = [f"# {reproduction.title}", _origin(name, provenance), markdown(table)]
    if len(claims):
        parts += ["## Claims", markdown(claims), HOW_TO_READ_VERDICTS]
    if any(", edge" in part for part in parts[2:]):
        parts.append(HOW_TO_READ_EDGES)
    parts += [f"![{title.replace('_', ' ')}]({title}.png)" for title in reproduction.figures]
    if (notes := PAPERS / f"{name}.md").exists():
        parts.append(notes.read_text())
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _origin(name: str, provenance: Provenance) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in provenance["versions"].items())
    commits = ", ".join(commit[:10] for commit in provenance["commits"])
    numbers = " or ".join("one" if number == 1 else str(number) for number in provenance["threads"])
    threads = f"{numbers} thread{'s' * (provenance['threads'] != [1])} per run"
    first, last = provenance["first"], provenance["last"]
    return (
        f"`{provenance['command']}`: {provenance['runs']} runs, of which {provenance['runs_that_count']} count, at the "
        f"settings chosen on the validation set; {provenance['hours']:.1f} hours of training, {threads}, "
        f"{first}{f' to {last}' * (first != last)}, at commit {commits}, on {provenance['processor']} "
        f"({versions}). Errors are test errors with the weights that were best on the validation set, mean ± standard "
        "deviation over n seeds."
    )


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown; missing values are left empty."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return to_markdown([{str(key): value for key, value in row.items()} for row in rows])


def _provenance(name: str, budget: Budget, num_counting: int, results: Sequence[Mapping[str, Any]]) -> Provenance:
    origins = [result["provenance"] for result in results]
    return {
        "command": f"python scripts/reproduce.py run {name} --budget {budget}",
        "runs": len(results),
        "runs_that_count": num_counting,
        "hours": sum(result["seconds"] for result in results) / 3600,
        "first": min(origin["date"] for origin in origins)[:10],
        "last": max(origin["date"] for origin in origins)[:10],
        "commits": sorted(
            {(origin["git_commit"] or "unknown") + ("+" if origin["git_dirty"] else "") for origin in origins}
        ),
        "processor": ", ".join(sorted({origin.get("card") or origin["processor"] for origin in origins})),
        "threads": sorted({origin["threads"] for origin in origins}),
        "versions": origins[-1]["versions"] | {"python": origins[-1]["python"]},
    }
