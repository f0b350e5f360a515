"""The short names of runs in TensorBoard."""

from dataclasses import replace

from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from src.reports.short_names import link_runs, short_names
from src.results.runs import load_runs
from src.training.curves import Curves
from src.training.floors import draw_floors
from tests.results.made_up import Folder


def test_names_say_what_varies_and_lead_to_the_event_files(folder, tmp_path):
    for model, lr, seed in (("lstm", 1e-3, 0), ("lstm", 1e-3, 1), ("irnn", 3e-3, 0)):
        name = folder.add(model, lr, seed)
        with Curves(folder.path / name, first_update=0) as curves:
            curves.scalars("val", {"error": lr}, 0)
    draw_floors(folder.path, "task", {"chance": {"error": 0.9}}, 10)
    links = tmp_path / "links"
    links.mkdir()
    assert link_runs(folder.path, links) == 3
    runs = EventMultiplexer().AddRunsFromDirectory(str(links)).Reload().Runs()
    lstm = {"lstm, lr 0.001, seed 0", "lstm, lr 0.001, seed 1"}
    assert set(runs) == {*lstm, "irnn, lr 0.003, seed 0", "floors/chance"}

    name = folder.add("lstm", 1e-3, 2)
    draw_floors(folder.path, "task", {"chance": {"error": 0.8}}, 10)
    assert link_runs(folder.path, links) == 4
    assert (links / "lstm, lr 0.001, seed 2").resolve() == (folder.path / name).resolve()
    assert len(list(links.iterdir())) == 4 + 2  # floors and summary


def test_a_single_run_is_called_by_its_model_and_runs_that_look_alike_by_their_folders(tmp_path):
    one = Folder(tmp_path / "one")
    name = one.add("lstm", 1e-3, 0)
    assert short_names(load_runs(one.path)) == {name: "lstm"}
    (run,) = load_runs(one.path)
    again = replace(run, name="elsewhere/lstm50")
    assert short_names([run, again]) == {name: name, again.name: "elsewhere_lstm50"}
