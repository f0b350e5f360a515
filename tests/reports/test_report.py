"""The report on a folder: files, figures, the page in TensorBoard, and run time."""

import csv
import importlib.util
import json
import os
import re
import shutil
import time
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pytest
from matplotlib import rc_context
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from src.config.paths import CONFIGS, EVENT_FILES, METRICS, SUMMARY
from src.reports.hparams import update_hparams_page
from src.reports.style import RC, legend, panels, style_of, styles_of
from src.utils.events import event_writer
from src.utils.jsonl import to_line
from tests.results.made_up import Folder

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "report.py"
EXPECTED = Path(__file__).parent / "expected"


@pytest.fixture(scope="module")
def report():
    """The command: `report("outputs/compare", "--no-figures")`."""
    spec = importlib.util.spec_from_file_location("report", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


def test_any_stored_metric_gets_a_column(folder, caplog):
    for length in (100, 127, 128, 300):
        name = folder.add(objective="m" * length, width=length)
        with event_writer(folder.path / name) as writer:
            writer.add_scalar("val/other", 0.5, 90)
    folder.change(name, status="interrupted", updates=None)
    for _ in range(2):
        update_hparams_page(folder.path)
        assert len(list(folder.path.glob(f"*/{EVENT_FILES}"))) == 2 * 4 + 1  # the page has a single file
    assert caplog.text == ""


def test_results_stand_without_their_page_in_tensorboard(folder, caplog):
    folder.add()
    (folder.path / SUMMARY).touch()
    update_hparams_page(folder.path)
    assert "no HParams page in TensorBoard: " in caplog.text


def write_curves(folder, last=10_000, every=250, level=0.1):
    """Write curves as a run does: a line at every evaluation, and one every 50 updates in between."""
    lines = []
    for update in range(0, last + 1, every):
        error = level + (0.9 - level) * 0.5 ** (update / last * 10)
        lines.append({"update": update, "val/error": error, "val/nll": 2 * error})
        for step in range(update, update + every, 50):
            scalars = {"train/loss": error, "train/error": error, "train/gradient_norm": 1.0, "train/lr": 1e-3}
            lines.append({"update": step} | scalars)
    (folder / METRICS).write_text("".join(map(to_line, lines)))


@pytest.fixture
def small(folder):
    """Two models, two widths, two learning rates, two seeds; one run diverged, one is missing."""
    for model, width, lr, seed in product(("lstm", "irnn"), (20, 50), (0.001, 0.003), (0, 1)):
        missing = (model, width, lr, seed) == ("irnn", 50, 0.003, 1)
        status = None if missing else "diverged" if (model, width, lr) == ("irnn", 20, 0.003) else "finished"
        name = folder.add(model, lr, seed, val=width / 100 - lr, test=width / 100, status=status, width=width)
        if status is not None:
            write_curves(folder.path / name, last=100, every=50)
    folder.expect_all()
    return folder


def page(folder):
    """The columns of the HParams page, and the images."""
    (path,) = (folder / SUMMARY).glob(EVENT_FILES)
    events = EventAccumulator(str(path)).Reload()
    content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    images = {tag: events.Images(tag)[0] for tag in events.Tags()["images"]}
    return [info.name for info in experiment.hparam_infos], [info.name.tag for info in experiment.metric_infos], images


def test_a_report_writes_tables_and_figures_that_tensorboard_shows_too(small, report, capsys):
    report(small.path, "--columns", "model.hidden_size")
    markdown = (small.path / "summary.md").read_text()
    assert markdown.index("## Selection") < markdown.index("## Runs") < markdown.index("## Not finished")
    assert "| model | 20 units | 50 units |\n| --- | --- | --- |\n| lstm | 0.2 ± 0 * | 0.5 ± 0 * |\n" in markdown
    assert "mean ± standard deviation over n finished runs (seed)" in markdown
    with open(small.path / "summary.csv") as file:
        assert len(list(csv.DictReader(file))) == 16
    with open(small.path / "selection.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["model.hidden_size"], row["optimizer.lr"], row["n"]) for row in rows] == [
        ("lstm", "20", "0.003", "2"), ("lstm", "50", "0.003", "2"),
        ("irnn", "20", "0.001", "2"), ("irnn", "50", "0.003", "1"),
    ]  # fmt: skip
    edges = [
        f"lr {lr:g} is at the edge of the grid, try {beyond:g} next" for lr, beyond in ((0.003, 0.01), (0.001, 0.0003))
    ]
    assert [row["notes"] for row in rows] == [
        edges[0],
        edges[0],
        f"{edges[1]}; 2 diverged at lr 0.003",
        f"{edges[0]}; 1 missing at lr 0.003",
    ]

    figures = {"against_hidden_size", "against_lr", "learning_curves"}
    assert {path.stem for path in (small.path / "figures").iterdir()} == figures
    hparams, metrics, images = page(small.path)
    assert set(hparams) == {"model", "model.hidden_size", "optimizer.lr", "seed"}
    assert set(metrics) == {
        "val_selected/error",
        "val_selected/nll",
        "val_selected/test/error",
        "val_selected/test/nll",
    }
    assert set(images) == {f"visualization/{name}" for name in figures}
    assert all(image.width > 500 and image.height > 300 for image in images.values())
    assert "irnn20-lr0.003-s0: diverged" in capsys.readouterr().out

    update_hparams_page(small.path)  # as at the end of every run
    assert page(small.path)[:2] == (hparams, metrics)
    assert set(page(small.path)[2]) == set(images)


def test_the_tables_of_a_folder_with_runs_of_every_status(folder, report):
    folder.add("lstm", 0.001, 0, val=0.25, test=0.5)
    folder.add("lstm", 0.001, 1, val=0.5, test=0.625)
    folder.add("lstm", 0.003, 0, val=0.125, test=0.25)
    folder.add("lstm", 0.003, 1, val=0.125, test=0.25, status="diverged", reason="the loss is not finite")
    folder.add("irnn", 0.001, 0, status="failed", reason="ValueError: a | b")
    folder.add("irnn", 0.001, 1, status=None)
    folder.add("irnn", 0.003, 0, val=0.0625, test=0.125, width=20)
    folder.expect_all()
    report(folder.path, "--no-figures", "--columns", "model.hidden_size")
    for expected in EXPECTED.iterdir():
        assert (folder.path / expected.name).read_bytes() == expected.read_bytes(), expected.name


def test_nothing_in_a_run_breaks_the_tables(folder, report, capsys):
    folder.add(lr=0.001, val=0.25, test=0.5, note="a\nb\r| c | <script>alert(1)</script> &lt;")
    folder.add(lr=0.003, val=0.5, test=0.5, note="[/red] [bold] 1 < 2 & 3 <= 4")
    folder.add(lr=0.01, status="failed", reason="Error:\n\n<b>|</b>\n# no title", note="x\\|")
    folder.expect_all()
    report(folder.path, "--no-figures")
    markdown = (folder.path / "summary.md").read_text()
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in tables[-7:-3]}) == 1
    for part in (
        "a b \\| c \\| &lt;script>alert(1)&lt;/script> &amp;lt;",
        "[/red] [bold] 1 < 2 & 3 <= 4",
        "Error:  &lt;b>\\|&lt;/b> # no title",
    ):
        assert part in markdown
    assert re.search(r"<[a-z/!?]", markdown) is None
    assert "\n#" not in markdown.replace("\n## ", "")
    assert "[/red] [bold]" in capsys.readouterr().out


def test_the_tables_of_runs_whose_objective_is_a_return(folder, report, capsys):
    for lr, vals in ((0.001, (-2.0, -4.0)), (0.003, (8.0, 10.0)), (0.01, (9.0, 9.0))):
        for seed, val in enumerate(vals):
            folder.add(lr=lr, seed=seed, val=val, test=val - 1, objective="return", higher_is_better=True)
    folder.add(lr=0.03, status=None)
    folder.expect_all()
    report(folder.path, "--no-figures")
    assert (folder.path / "selection.csv").read_text() == (
        "optimizer.lr,metric,mean,sd,ci95,n,val,grid_min,grid_median,grid_max,points,runs,notes\n"
        "0.003,test/return,8.0,1.4142135623730951,12.706204736174694,2,9.0,-3.0,9.0,9.0,4,7,"
        '"2 points tied, the first taken; 1 missing at lr 0.03"\n'
    )
    markdown = (folder.path / "summary.md").read_text()
    assert "test/return at the optimizer.lr chosen on val/return, mean ± standard deviation" in markdown
    assert (
        "| optimizer.lr | test/return | n | val/return over the grid (min / median / max) | grid points | notes |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| 0.003 | 8.0 ± 1.4 | 2 | -3 / 9 / 9 | 4 | 2 points tied, the first taken; 1 missing at lr 0.03 |\n"
    ) in markdown
    assert "| 0.001 | 1 | finished | -4.0000 | 9.0000 | -5.0000 | 9.0000 |" in markdown
    assert "8.0 ± 1.4" in capsys.readouterr().out


def test_a_report_without_figures_keeps_existing_ones(small, report):
    (small.path / "figures").mkdir()
    (small.path / "figures" / "against_old.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x07\0\0\0\x05")
    report(small.path, "--no-figures")
    assert [path.name for path in (small.path / "figures").iterdir()] == ["against_old.png"]
    (image,) = page(small.path)[2].values()
    assert (image.width, image.height) == (7, 5)
    (small.path / "figures" / "my_plot.png").write_bytes(b"mine")
    report(small.path)
    assert "against_old.png" not in os.listdir(small.path / "figures")
    assert (small.path / "figures" / "my_plot.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is neither a folder nor an experiment; legal: ba2016/"),
        (["ba2016/tabel1"], "did you mean ba2016/table1?"),
        (["ba2016/table1"], "ba2016/table1 has no runs in outputs/ba2016-table1 yet"),
        (["empty"], "empty: contains no runs"),
        (["made-up/lone"], "made-up/lone: is a single run; give the folder that contains it, made-up"),
        (["made-up/lone", "empty"], "made-up/lone: is a single run; give the folder that contains it, made-up"),
        ([""], "'' is neither a folder nor an experiment"),
        (
            ["made-up", "--grid", "optimizer.lrr"],
            "--grid optimizer.lrr: no run has this setting; did you mean optimizer.lr?",
        ),
    ],
)
def test_a_mistake_gives_a_one_line_message(arguments, message, folder, report, monkeypatch, tmp_path):
    name = folder.add(lr=1)
    (folder.path / name).rename(folder.path / "lone")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        report(*arguments)
    assert message in str(ended.value)
    assert "\n" not in str(ended.value)


def test_the_title_of_the_current_folder_is_its_name(folder, report, monkeypatch):
    folder.add(lr=1)
    monkeypatch.chdir(folder.path)
    report(".", "--no-figures")
    assert (folder.path / "summary.md").read_text().startswith("# made-up\n")
    assert "<title>made-up</title>" in (folder.path / "report.html").read_text()


def test_the_name_of_an_experiment_gives_its_folder_and_its_search_settings(folder, report, monkeypatch, tmp_path):
    for model, width, lr in product(("irnn", "lstm"), (20, 50), (1, 2)):
        folder.add(model, lr=lr, width=width)
    folder.expect_all(grid=["seed"], columns=[])  # unlike in the experiment
    (tmp_path / "outputs").mkdir()
    folder.path.rename(tmp_path / "outputs" / "ba2016-table1")
    monkeypatch.chdir(tmp_path)
    report("ba2016/table1", "--no-figures")
    assert "2 points tied" in Path("outputs/ba2016-table1/selection.csv").read_text()
    assert "| model | 20 units | 50 units |" in Path("outputs/ba2016-table1/summary.md").read_text()


def test_a_model_has_the_same_style_everywhere_and_shares_it_with_no_other():
    names = ["fastweights", "lstm", "irnn", "alstm", "gru", "rnn", "nprnn", "a_new_one"]
    styles = styles_of({name: name for name in names})
    assert styles == {name: style_of(name) for name in names}
    for part in ("color", "linestyle", "marker"):
        assert len({str(style_of(name)[part]) for name in names[:7]}) == 7
    variants = styles_of({f"fastweights, decay {decay}": "fastweights" for decay in range(12)})
    assert len({str(style) for style in variants.values()}) == 12


def test_the_first_series_of_a_model_has_its_style_and_leaves_other_models_theirs():
    labels = {"fast weights": "fastweights", "with a delta rule": "fastweights", "LSTM": "lstm", "longer": "lstm"}
    styles = styles_of(labels | {"DeltaNet": "deltanet"})
    assert [styles[label] for label in ("fast weights", "LSTM")] == [style_of("fastweights"), style_of("lstm")]
    assert styles["DeltaNet"] == style_of("deltanet")
    for part in ("color", "marker"):
        assert len({style[part] for style in styles.values()}) == 5


def test_models_with_the_same_color_by_chance_have_different_ones_in_a_figure():
    names = [path.stem for path in (CONFIGS / "model").glob("*.yaml")]
    alike = [name for name in names if style_of(name)["color"] == style_of("deltanet")["color"]]
    assert len(alike) > 1
    styles = styles_of({name: name for name in ["lstm", *alike, "fastweights"]})
    assert len({style["color"] for style in styles.values()}) == len(styles)
    assert [styles[name] for name in ("lstm", "fastweights")] == [style_of("lstm"), style_of("fastweights")]


@pytest.mark.parametrize("repeated", [1, 5])
def test_a_legend_lies_within_its_figure(repeated):
    with rc_context(RC):
        figure, (axes,) = panels(["a title"])
        for name in ("lstm", "fastweights"):
            axes.plot([0, 1], label=f"{name}, decay 0.95, sequence length 300; " * repeated)
        legend(figure, [axes])
        figure.draw_without_rendering()
    box, whole = figure.legends[0].get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0
    assert box.x1 <= whole.x1
    assert box.height < whole.height / 2


@pytest.mark.slow
def test_a_report_on_a_thousand_runs_takes_seconds(folder, report):
    templates = []
    grid = product(("irnn", "lstm", "gru", "fastweights"), (20, 50, 100, 200, 400), (1e-4, 3e-4, 1e-3, 3e-3, 1e-2))
    for number, ((name, width, lr), seed) in enumerate(product(grid, range(10))):
        error = 20 / width * (1 + abs(lr - 0.003)) + seed / 1000
        run = folder.path / folder.add(name, lr, seed, val=error, test=error, width=width)
        if number < 8:
            write_curves(run, level=error)
            templates.append(run / METRICS)
        else:
            shutil.copy(templates[number % 8], run)
    assert len(templates[0].read_text().splitlines()) == 41 * 6
    started = time.process_time(), time.perf_counter()
    report(folder.path)
    seconds = time.process_time() - started[0], time.perf_counter() - started[1]
    print(json.dumps({"processor seconds": seconds[0], "seconds": seconds[1]}))
    assert seconds[0] < 20
    with open(folder.path / "summary.csv") as file:
        assert len(list(csv.DictReader(file))) == 1000


class Page(HTMLParser):
    """The text of a page, and what it would load."""

    def __init__(self, html):
        super().__init__()
        self.texts, self.tags, self.sources = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for key, value in attributes if key in ("src", "href")]

    def handle_data(self, data):
        self.texts.append(data.strip())


def test_one_html_file_has_everything_and_loads_nothing(small, report):
    report(small.path)
    html = (small.path / "report.html").read_text()
    page = Page(html)
    assert len(page.sources) == 3  # figures
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in page.sources)
    for text in ("Selection", "Runs", "Not finished", "16 runs: 13 finished, 2 diverged, 1 missing", "0.2 ± 0"):
        assert text in page.texts
    assert page.tags.count("tr") == 3 + 4 + 16 + 3
    assert len(html) < 2_000_000


def test_nothing_in_a_run_breaks_the_html(folder, report):
    folder.add(lr=0.001, val=0.25, test=0.5, note="<script>alert(1)</script> &lt; {{ 1 + 1 }}")
    folder.add(lr=0.003, status="failed", reason="<b>|</b>", note="x")
    folder.expect_all()
    report(folder.path, "--no-figures")
    page = Page((folder.path / "report.html").read_text())
    assert not {"script", "b"} & set(page.tags)
    assert "<script>alert(1)</script> &lt; {{ 1 + 1 }}" in page.texts


def test_several_folders_have_one_report(folder, report, tmp_path, monkeypatch, capsys):
    other = Folder(tmp_path / "other")
    for made, model in ((folder, "lstm"), (other, "irnn")):
        for seed in (0, 1):
            name = made.add(model, 0.01, seed, val=0.25, test=0.5)
            write_curves(made.path / name, last=100, every=50)
        made.expect_all()
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    report(folder.path, other.path)
    joint = tmp_path / f"{folder.path.name}+other"
    assert f"\n{folder.path.name}+other/summary.md\n" in capsys.readouterr().out
    assert {path.name for path in joint.iterdir()} == {
        "summary.md", "summary.csv", "selection.csv", "report.html", "figures"
    }  # fmt: skip
    with open(joint / "selection.csv") as file:
        assert [(row["model"], row["n"]) for row in csv.DictReader(file)] == [("lstm", "2"), ("irnn", "2")]
    assert (joint / "figures" / "learning_curves.png").stat().st_size > 10_000


def fingerprinted(made, name, digits):
    """Give a made-up run a name with a fingerprint, and return it."""
    other = f"{name}-{digits}"
    (made.path / name).rename(made.path / other)
    made.expected[other] = made.expected.pop(name)
    return other


def test_a_run_in_two_folders_counts_once_in_a_joint_report(folder, report, tmp_path):
    other = Folder(tmp_path / "other")
    for made in (folder, other):
        for seed, test in ((0, 0.2), (1, 0.4)):
            fingerprinted(made, made.add("lstm", 0.01, seed, val=0.25, test=test), f"0000000{seed}")
        made.expect_all()
    report("--no-figures", folder.path, other.path)
    with open(tmp_path / f"{folder.path.name}+other" / "summary.csv") as file:
        assert [(row["seed"], float(row["test/error"])) for row in csv.DictReader(file)] == [("0", 0.2), ("1", 0.4)]


def test_what_one_folder_searches_is_searched_in_a_joint_report_in_any_order(folder, report, tmp_path):
    other = Folder(tmp_path / "other")
    folder.add("irnn", 0.01, val=0.25, width=50)
    folder.expect_all()
    for width, val in ((8, 0.3), (12, 0.2)):
        other.add("lstm", 0.01, val=val, width=width)
    other.expect_all(grid=["optimizer.lr", "model.hidden_size"])
    rows = []
    for folders in ([folder.path, other.path], [other.path, folder.path]):
        report("--no-figures", *folders)
        with open(tmp_path / "+".join(path.name for path in folders) / "selection.csv") as file:
            rows.append(sorted((row["model"], row["model.hidden_size"]) for row in csv.DictReader(file)))
    assert rows[0] == rows[1] == [("irnn", "50"), ("lstm", "12")]


def test_a_folder_searched_at_once_keeps_its_choice_beside_one_searched_in_two_stages(folder, report, tmp_path):
    other = Folder(tmp_path / "other")
    for lr, values in ((0.01, (0.1, 0.5)), (0.001, (0.2, 0.2))):
        for seed, val in enumerate(values):
            folder.add("lstm", lr, seed, val=val)
    folder.expect_all()
    for lr, seed, val in ((0.01, 0, 0.1), (0.001, 0, 0.2), (0.01, 1, 0.5)):
        other.add("irnn", lr, seed, val=val)
    other.expect_all(two_stage=True)
    report("--no-figures", folder.path, other.path)
    with open(tmp_path / f"{folder.path.name}+other" / "selection.csv") as file:
        chosen = {row["model"]: row["optimizer.lr"] for row in csv.DictReader(file)}
    assert chosen == {"lstm": "0.001", "irnn": "0.01"}


def test_a_report_on_folders_reached_by_way_of_others_lies_beside_them(folder, report, tmp_path):
    other = Folder(tmp_path / "other")
    for made in (folder, other):
        made.add()
        made.expect_all()
    report("--no-figures", other.path / ".." / folder.path.name, other.path)
    assert (tmp_path / f"{folder.path.name}+other" / "summary.md").exists()


@pytest.mark.parametrize("inside", ["", "inner"])
def test_a_folder_is_not_reported_on_twice(folder, report, inside):
    inner = Folder(folder.path / inside)
    for made in (folder, inner):
        if not made.path.exists():
            made.add()
            made.expect_all()
    with pytest.raises(SystemExit, match="given twice, or inside another of the given folders"):
        report("--no-figures", folder.path, inner.path)


def test_a_key_with_two_roles_is_refused(folder, report):
    folder.add(lr=0.001)
    folder.add(lr=0.003)
    folder.expect_all()
    with pytest.raises(SystemExit, match=r"grid and search.columns both list optimizer.lr; remove it from one of them"):
        report("--no-figures", folder.path, "--columns", "optimizer.lr")


def note(folder, name, text):
    config = json.loads((folder.path / name / "result.json").read_text())["config"]
    folder.change(name, config=config | {"note": text})


def test_a_note_is_shown_once_or_with_each_run(folder, report):
    first, second = folder.add(lr=0.001), folder.add(lr=0.003)
    folder.expect_all()
    note(folder, first, "a | first try")
    report(folder.path, "--no-figures")
    assert "\na \\| first try\n" in (folder.path / "summary.md").read_text()
    note(folder, second, "a second one")
    report(folder.path, "--no-figures")
    with open(folder.path / "summary.csv") as file:
        assert [row["note"] for row in csv.DictReader(file)] == ["a | first try", "a second one"]
