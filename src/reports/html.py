"""The report on a folder of runs as one self-contained HTML file: tables, figures, and unfinished runs."""

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from src.reports.summary import Section, common_note
from src.reports.tables import number
from src.results.runs import Run

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; color: #222; }
  h1, h2 { line-height: 1.2; overflow-wrap: anywhere; }
  .table { overflow-x: auto; margin: 1rem 0; }
  table { border-collapse: collapse; font-size: .9rem; }
  th, td { border-bottom: 1px solid #ddd; padding: .25rem .6rem; text-align: left; white-space: nowrap; }
  td.long { white-space: normal; min-width: 14rem; overflow-wrap: anywhere; }
  figure { margin: 1.5rem 0; break-inside: avoid; }
  img { max-width: 100%; height: auto; }
  .note { font-style: italic; }
  @page { size: landscape; margin: 12mm; }
  @media print {
    body { font-size: 11px; max-width: none; padding: 0; }
    .table { overflow: visible; }
    table { font-size: 8px; }
    th, td { white-space: normal; padding: .15rem .3rem; }
    td.long, td:last-child { overflow-wrap: anywhere; }
    tr { break-inside: avoid; }
    img { max-width: 15cm; }
  }
</style>
<h1>{{ title }}</h1>
{% if note %}<p class="note">{{ note }}</p>{% endif %}
<p>{{ counts }}</p>
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% if section.text %}<p>{{ section.text }}</p>{% endif %}
{% for rows in section.tables %}
<div class="table"><table>
<thead><tr>{% for column in rows[0] %}<th>{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr>{% for value in row.values() %}{% set text = value | shown %}\
<td{% if text | length > 60 %} class="long"{% endif %}>{{ text }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% if loop.first and section.remark %}<p>{{ section.remark }}</p>{% endif %}
{% endfor %}
{% if loop.first %}{% for name, png in figures.items() %}
<figure><img alt="{{ name }}" src="data:image/png;base64,{{ png }}"><figcaption>{{ name }}</figcaption></figure>
{% endfor %}{% endif %}
{% endfor %}
</html>
"""


def html_report(title: str, runs: Sequence[Run], sections: Sequence[Section], figures: Mapping[str, Path]) -> str:
    """The report as an HTML page.

    Args:
        title: title of the page.
        runs: all runs of the folder.
        sections: sections of the page, see `src.reports.summary`.
        figures: {name: PNG file}.
    """
    environment = Environment(autoescape=True, trim_blocks=True)
    environment.filters["shown"] = number
    pngs = {_words(name): base64.b64encode(path.read_bytes()).decode() for name, path in figures.items()}
    page = environment.from_string(_PAGE)
    return page.render(
        title=title, note=common_note(runs), counts=_counts(runs), sections=map(_aligned, sections), figures=pngs
    )


def _counts(runs: Sequence[Run]) -> str:
    """How many runs there are of each status: "12 runs: 11 finished, 1 missing"."""
    statuses = [run.status for run in runs]
    shares = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return f"{len(runs)} run{'s' * (len(runs) != 1)}: {shares}"


def _aligned(section: Section) -> Section:
    """The section with the same columns in every row of a table."""

    def with_all(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        columns = dict.fromkeys(column for row in rows for column in row)
        return [dict(columns) | row for row in rows]

    return section._replace(tables=[with_all(rows) for rows in section.tables if rows])


def _words(name: str) -> str:
    return re.sub("_+", " ", name)
