"""What TensorBoard finds in the folder of a run and in the folder of all runs."""

import math
import re
import time

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing import data_provider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups, plugin_data_pb2
from torch import nn

from src.config.fingerprint import decisive_keys
from src.config.paths import EVENT_FILES, FLOORS, SUMMARY
from src.reports.hparams import SHOWN_OF_ONE_RUN, update_hparams_page
from src.results.curves import read_curves
from src.results.result import read_result
from src.training.curves import Curves
from src.training.floors import draw_floors
from src.utils.events import event_writer

LSTM = ("model=lstm", "seed=2", "trainer.histograms=true")


def events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0})
    return accumulator.Reload()


def hparams(accumulator, tag):
    content = accumulator.summary_metadata[f"_hparams_/{tag}"].plugin_data.content
    return getattr(plugin_data_pb2.HParamsPluginData.FromString(content), tag)


def text(accumulator, tag):
    return accumulator.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode()


@pytest.fixture
def trained(train_once, train, tiny, tmp_path):
    """Launch a command, and return the folders of all runs so far."""

    def launch(*arguments):
        if (tmp_path / "outputs").exists():
            ended = train(*arguments, *tiny)
            assert ended.status == 0, ended.err
        else:
            train_once(*arguments, *tiny)
        return sorted(path.parent for path in tmp_path.glob("outputs/runs/*/result.json"))

    return launch


def test_curves_have_a_point_per_log_and_per_evaluation_and_end_in_the_result(trained):
    (folder,) = trained()
    run, result = events(folder), read_result(folder)
    scalars = run.Tags()["scalars"]
    points = {tag: {event.step: event.value for event in run.Scalars(tag)} for tag in scalars}
    for tag in ("train/loss", "train/error", "weight_updates/lr", "weight_updates/gradient_norm"):
        assert list(points[tag]) == [2, 4, 6]
    for name in ("error", "nll"):
        assert list(points[f"val/{name}"]) == [0, 3, 6]
        assert points[f"val/{name}"][result["selected_update"]] == pytest.approx(result["metrics"][f"val/{name}"])
        assert points[f"val_selected/test/{name}"] == {6: pytest.approx(result["metrics"][f"test/{name}"])}
        assert points[f"val_selected/{name}"] == {6: pytest.approx(result["metrics"][f"val/{name}"])}
    assert points["val_selected/update"] == {6: result["selected_update"]}
    cosine = {update: 5e-4 * (1 + math.cos(math.pi * (update - 1) / 6)) for update in (2, 4, 6)}
    assert points["weight_updates/lr"] == pytest.approx(cosine)


def test_metrics_jsonl_has_the_same_points(trained):
    (folder,) = trained()
    run = events(folder)
    shown = {tag: {event.step: event.value for event in run.Scalars(tag)} for tag in run.Tags()["scalars"]}
    tags = [tag.replace("val_selected/test", "test").replace("weight_updates", "train") for tag in shown]
    assert len(tags) > 10
    in_single_precision = {
        tag: {update: float(np.float32(value)) for update, value in points.items()}
        for tag, points in read_curves(folder, tags).items()
    }
    assert list(in_single_precision.values()) == list(shown.values())


def test_the_first_two_groups_are_training_and_validation(trained):
    """TensorBoard sorts the groups of its cards by name and opens the first two."""
    (folder,) = trained("trainer.histograms=true")
    kinds = events(folder).Tags()
    tags = sorted(tag for kind in ("scalars", "images", "histograms") for tag in kinds[kind])
    groups = list(dict.fromkeys(tag.partition("/")[0] for tag in tags))
    assert groups[:2] == ["train", "val"]
    assert [tag for tag in tags if tag.startswith("train/")] == ["train/error", "train/loss"]


def test_points_of_an_earlier_attempt_are_dropped_with_a_line_that_was_cut_off(tmp_path):
    with Curves(tmp_path, first_update=0) as first:
        for update in range(5):
            first.scalars("val", {"error": 0.5, "nll": float("inf")}, update)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"update": 5, "val/er')
    with Curves(tmp_path, first_update=3) as second:
        second.scalars("val", {"error": 0.25}, 3)
    curves = read_curves(tmp_path, ["val/error", "val/nll"])
    assert curves["val/error"] == {0: 0.5, 1: 0.5, 2: 0.5, 3: 0.25}
    assert list(curves["val/nll"]) == [0, 1, 2]
    assert all(math.isnan(value) for value in curves["val/nll"].values())


def test_every_weight_has_a_norm_and_a_histogram_and_so_has_its_gradient(trained):
    (folder,) = trained(*LSTM)
    run = events(folder)
    weights = [tag.removeprefix("weights/") for tag in run.Tags()["histograms"] if tag.startswith("weights/")]
    assert len(weights) > 4
    # at the first evaluation there is no gradient yet
    for kind, steps in {"weights": [0, 3, 6], "weights_gradient": [3, 6]}.items():
        for name in weights:
            assert [event.step for event in run.Scalars(f"{kind}_norm/{name}")] == steps
            assert [event.step for event in run.Histograms(f"{kind}/{name}")] == steps


def test_weights_and_gradients_that_are_not_finite_have_no_histogram(tmp_path):
    model = nn.Linear(2, 2)
    model.weight.grad, model.bias.grad = torch.ones(2, 2), torch.full((2,), math.inf)
    model.weight.data[0, 0] = math.nan
    with Curves(tmp_path, first_update=0) as curves:
        curves.histograms(model, 3)
    assert events(tmp_path).Tags()["histograms"] == ["weights_gradient/weight", "weights/bias"]


def lines(folder):
    """The floors that are drawn in a folder, as {description: {tag: {update: value}}}."""
    drawn = {path.name: events(path) for path in folder.iterdir() if path.is_dir()}
    return {
        name: {tag: {event.step: event.value for event in run.Scalars(tag)} for tag in run.Tags()["scalars"]}
        for name, run in drawn.items()
    }


def test_floors_are_lines_in_the_charts_of_validation_drawn_once_for_all_runs(trained):
    folders = trained("-m", "model=rnn", "seed=0,1")
    home = folders[0].parent / FLOORS / "associative_retrieval"
    drawn = {path: path.stat().st_mtime_ns for path in home.rglob(EVENT_FILES)}
    floors = read_result(folders[0])["floors"]
    assert len(drawn) == len(floors) == 4
    assert lines(home) == {
        words: {f"val/{name}": pytest.approx({0: value, 6: value}) for name, value in floor.items()}
        for words, floor in floors.items()
    }
    assert not any("floor" in tag for folder in folders for tag in events(folder).Tags()["scalars"])
    trained("model=lstm")
    assert {path: path.stat().st_mtime_ns for path in home.rglob(EVENT_FILES)} == drawn


def test_floors_reach_to_the_end_of_the_longest_run_and_differ_with_the_task(tmp_path):
    floors, others = {"chance": {"error": 0.5}}, {"chance": {"error": 0.75}, "3 m/s": {"error": 0.25}}
    for values, last in ((floors, 10), (floors, 20), (others, 30), (floors, 5)):
        draw_floors(tmp_path, "task", values, last)
    first, second = sorted((tmp_path / FLOORS).iterdir())
    assert (first.name, lines(first)) == ("task", {"chance": {"val/error": {0: 0.5, 20: 0.5}}})
    assert lines(second) == {
        "chance": {"val/error": {0: 0.75, 30: 0.75}},
        "3 m per s": {"val/error": {0: 0.25, 30: 0.25}},
    }
    (first / "floors.json").write_text("[1")
    draw_floors(tmp_path, "task", floors, 40)
    assert lines(first) == {"chance": {"val/error": {0: 0.5, 40: 0.5}}}


def test_the_whole_configuration_can_be_read(trained):
    (folder,) = trained(*LSTM)
    shown = text(events(folder), "configuration")
    for part in ("_target_: src.models.lstm.LSTM", "seed: 2", "hidden_size: 8", "max_updates: 6"):
        assert f"    {part}" in shown
    assert "${" not in shown
    assert "hydra" not in shown


def test_examples_and_what_the_memory_looks_at_are_shown_at_the_end(drawn, trained):
    (folder,) = trained("model=fastweights")
    run = events(folder)
    lines = text(run, "examples").splitlines()
    assert len(lines) == 12
    assert all(re.fullmatch(r"    \S{11} -> \d   predicted \d \(p=[\d.]+\)   (right|WRONG)", line) for line in lines)
    assert len(run.Tags()["images"]) == 2
    for tag in run.Tags()["images"]:
        assert tag.startswith("visualization/")
        (image,) = run.Images(tag)
        assert image.step == 6
        assert image.encoded_image_string.startswith(b"\x89PNG")


def test_a_model_without_a_memory_matrix_shows_no_figure(drawn, trained):
    (folder,) = trained(*LSTM)
    assert events(folder).Tags()["images"] == []


def test_a_run_is_a_session_with_all_its_settings(trained):
    (folder,) = trained(*LSTM)
    run = events(folder)
    shown = hparams(run, "session_start_info").hparams
    settings = decisive_keys(read_result(folder)["config"])
    assert set(shown) == {key for key, value in settings.items() if value != "None"}
    assert shown["model"].string_value == "lstm"
    assert shown["seed"].string_value == "2"
    assert shown["optimizer.lr"].number_value == 1e-3
    assert hparams(run, "session_start_info").group_name == read_result(folder)["fingerprint"]  # the name of the trial
    assert hparams(run, "session_end_info").status == 1  # success


def columns(folder):
    """The settings and metrics of the HParams page, from the single event file that describes a folder."""
    assert list(folder.glob(EVENT_FILES)) == []
    assert len(list((folder / SUMMARY).glob(EVENT_FILES))) == 1
    experiment = hparams(events(folder / SUMMARY), "experiment")
    return [info.name for info in experiment.hparam_infos], [info.name.tag for info in experiment.metric_infos]


def test_the_hparams_page_has_a_column_for_what_varies_and_for_the_final_metrics(trained):
    final = {"val_selected/error", "val_selected/nll", "val_selected/test/error", "val_selected/test/nll"}
    (folder,) = trained("model=rnn")
    settings, metrics = columns(folder.parent)
    assert settings == list(SHOWN_OF_ONE_RUN)
    assert set(metrics) == final

    folders = trained("-m", "model=rnn", "trainer.clip_norm=2,3", "model.nonlinearity=relu")
    assert len(folders) == 3
    settings, metrics = columns(folder.parent)
    assert set(settings) == {"trainer.clip_norm", "model.nonlinearity"}
    assert len(settings) == len(set(settings))
    assert set(metrics) == final
    for run in map(events, folders):
        assert final <= set(run.Tags()["scalars"])
        assert set(settings) <= set(hparams(run, "session_start_info").hparams)


def test_trials_are_sorted_as_in_their_sweep(trained):
    folder = trained("-m", "model=rnn", "seed=1,0")[0].parent
    trials = {run.name: hparams(events(run), "session_start_info").group_name for run in folder.glob("rnn*")}
    assert {trial.split()[0]: name.split("-")[3] for name, trial in trials.items()} == {"0": "s1", "1": "s0"}
    assert all(name.endswith(trial.split()[1]) for name, trial in trials.items())


def test_the_final_metrics_of_an_earlier_version_get_the_tags_of_the_columns(trained):
    """The earlier version wrote the metrics of the test set under the tags `test/...`."""
    (folder,) = trained("model=rnn")
    (file,) = folder.glob(EVENT_FILES)
    metrics = read_result(folder)["metrics"]
    file.unlink()
    with event_writer(folder) as writer:
        for name in ("error", "nll"):
            writer.add_scalar(f"val_selected/{name}", metrics[f"val/{name}"], 6)
            writer.add_scalar(f"test/{name}", metrics[f"test/{name}"], 6)
    for _ in range(2):
        update_hparams_page(folder.parent)
        assert len(list(folder.glob(EVENT_FILES))) == 2
    run = events(folder)
    for tag, value in metrics.items():
        shown = run.Scalars(f"val_selected/{tag.removeprefix('val/')}")
        assert {event.step: event.value for event in shown} == {6: pytest.approx(value)}


def test_the_hparams_page_covers_runs_of_different_tasks(trained):
    trained("model=rnn")
    folder = trained("model=lstm", "task=addition")[0].parent
    settings, metrics = columns(folder)
    assert {"model", "task"} <= set(settings)
    assert not {"model.forget_bias", "task.num_pairs", "task.sequence_length"} & set(settings)
    assert {"val_selected/test/error", "val_selected/test/mse"} <= set(metrics)


@pytest.mark.parametrize("now", [1_000_000_000.0, 1_700_000_000.9, 1_700_000_005.0])
def test_a_new_event_file_is_read_last_whatever_the_clock_says(now, tmp_path, monkeypatch):
    started = 1_700_000_000.0
    for attempt, seconds in enumerate((started, now, now)):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: seconds)
        with Curves(tmp_path, first_update=attempt * 2) as curves:
            for update in range(attempt * 2, 6):
                curves.scalars("val", {"error": float(attempt)}, update)
    monkeypatch.undo()
    names = sorted(path.name for path in tmp_path.glob(EVENT_FILES))
    assert len({name.split(".")[3] for name in names}) == len(names) == 3
    points = {event.step: event.value for event in events(tmp_path).Scalars("val/error")}
    assert points == {0: 0, 1: 0, 2: 1, 3: 1, 4: 2, 5: 2}


@pytest.mark.parametrize("name", ["events.out.tfevents.x", "events.out.tfevents.", "events.out.tfevents.99999999999.h"])
def test_an_event_file_with_an_odd_name_is_in_no_ones_way(name, tmp_path):
    (tmp_path / name).touch()
    with Curves(tmp_path, first_update=0) as curves:
        curves.scalars("val", {"error": 0.5}, 0)
    assert len(list(tmp_path.glob(EVENT_FILES))) == 2


def test_the_hparams_page_sorts_a_column_of_numbers_and_nulls(trained):
    """A column that mixes text and numbers cannot be sorted: the server responds with an error."""
    trained("-m", "model=rnn", "trainer.clip_norm=null,1", "trainer.patience=9")
    folder = trained("model=rnn", "trainer.clip_norm=1", "trainer.patience=null")[0].parent
    for column, number in (("trainer.clip_norm", 1), ("trainer.patience", 9)):
        for order in (api_pb2.ORDER_ASC, api_pb2.ORDER_DESC):
            groups = session_groups(folder, column, order)
            values = [group.hparams[column].number_value for group in groups if column in group.hparams]
            assert (len(groups), values) == (3, [number, number])
    experiment = hparams(events(folder / SUMMARY), "experiment")
    assert {info.name: info.type for info in experiment.hparam_infos} == {
        "trainer.clip_norm": api_pb2.DATA_TYPE_FLOAT64,
        "trainer.patience": api_pb2.DATA_TYPE_FLOAT64,
    }


def session_groups(folder, column, order):
    """The rows of the HParams page of a folder, sorted by a column."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(folder))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider, multiplexer=multiplexer))
    status = [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_RUNNING]
    request = api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=10, allowed_statuses=status)
    request.col_params.add(hparam=column, order=order)
    metadata = context.hparams_metadata(RequestContext(), "0")
    handler = list_session_groups.Handler(RequestContext(), context, "0", request)
    assert metadata
    return handler.run().session_groups
