"""A finished run is evaluated on any split, or with changed task settings."""

import json
import math
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from src.config.errors import UserError
from src.evaluate import EvaluateSettings, _loaded, _write, evaluate_run, main
from src.reports.hparams import update_hparams_page
from src.results.result import read_result
from src.results.runs import load_runs
from src.running.build import build_task
from src.running.load import load_run, read_config, stored_config
from src.training.content import OTHER_DATA
from src.training.evaluation import evaluate
from tests.results.made_up import Folder


@pytest.fixture
def folder(tmp_path):
    """An empty folder for made-up runs."""
    return Folder(tmp_path / "made-up")


@pytest.fixture
def run(train_once, tiny, tmp_path):
    """Train a short run with some overrides and return its folder: `run("task=copying")`."""

    def folder(*overrides):
        train_once(*tiny, "model=rnn", "trainer.eval_every=2", "optimizer.lr=0.01", *overrides)
        (result,) = tmp_path.glob("outputs/runs/*/result.json")
        return result.parent

    return folder


def evaluated(folder, *changes, **settings):
    return evaluate_run(EvaluateSettings(run=str(folder), **settings), OmegaConf.from_dotlist(list(changes)))


def test_evaluating_a_run_gives_exactly_its_stored_metrics(run):
    folder = run()
    stored = json.loads((folder / "result.json").read_text())["metrics"]
    for split in ("val", "test"):
        metrics, _ = evaluated(folder, split=split)
        assert metrics == {name: stored[f"{split}/{name}"] for name in metrics}
        assert len(metrics) == 2


def test_a_run_whose_settings_depend_on_others_is_read_by_another_process(run, monkeypatch, capsys):
    """Experiments may use this project's resolvers, which Hydra stores unresolved."""
    folder = run()
    stored = folder / ".hydra" / "config.yaml"
    dependent = "max_updates: ${by:${model.hidden_size},{16:12,8:${by:${model._target_},{src.models.rnn.RNN:3},6}}}"
    stored.write_text(stored.read_text().replace("max_updates: 6", dependent))
    assert dependent in stored.read_text()
    OmegaConf.clear_resolver("by")  # as in another process, which has not registered it yet
    code, out = command(monkeypatch, capsys, f"run={folder}", "examples=0")
    assert code == 0
    assert "knows the digits" in out


def test_changed_settings_split_and_seed_give_other_data(run, capsys):
    folder = run()
    same, examples = evaluated(folder, examples=3)
    longer, longer_examples = evaluated(folder, "num_pairs=6", examples=3)
    assert [len(line.split(" -> ")[0]) for line in examples] == [11] * 3
    assert [len(line.split(" -> ")[0]) for line in longer_examples] == [15] * 3
    others = [evaluated(folder, **settings)[0] for settings in ({"seed": 1}, {"split": "train"}, {"split": "val"})]
    assert len({metrics["nll"] for metrics in [same, longer, *others]}) == 5
    assert evaluated(folder)[0] == same
    assert "knows the digits, not the binding" in capsys.readouterr().out


def test_another_seed_gives_other_examples_of_the_same_task(run):
    folder = run("task=hadamard_product", "task.vector_size=6", "task.permuted=true")
    learned, other = (_loaded(EvaluateSettings(run=str(folder), seed=seed), {})[3] for seed in (None, 1))
    assert torch.equal(learned.order_n, other.order_n)
    products, others = (next(iter(task.evaluation("test"))) for task in (learned, other))
    assert not torch.equal(products.inputs, others.inputs)
    assert torch.equal(others.targets, others.inputs.prod(1)[:, learned.order_n])


def test_a_larger_test_set_is_all_evaluated(run):
    folder = run()
    found, examples = evaluated(folder, "test_size=500", examples=0)
    loaded = load_run(folder)
    loaded.config.task.test_size = 500
    assert (found, examples) == (evaluate(loaded.model, build_task(loaded.config), "test"), [])
    assert found != evaluated(folder)[0]


def test_a_task_that_does_not_fit_the_weights_is_refused_in_one_line(run):
    folder = run("task=copying", "task.sequence_length=5")
    metrics, _ = evaluated(folder, "sequence_length=9")
    assert set(metrics) == {"error", "nll"}
    with pytest.raises(
        UserError, match=r"^the network was built for \w+ of 10\b.*, the changed task has \w+ of 6\b.*$"
    ):
        evaluated(folder, "num_symbols=4")


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["src/evaluate.py", *arguments])
    capsys.readouterr()
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    return code, capsys.readouterr().out


def test_the_command_prints_metrics_floors_and_examples(run, monkeypatch, capsys):
    folder = run()
    code, out = command(monkeypatch, capsys, f"run={folder}", "task.num_pairs=6", "examples=3")
    assert code == 0
    for part in ("test", "chance", "knows the digits, not the binding", "predicted"):
        assert part in out
    assert out.count("predicted") == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            "splitt=val",
            "splitt is not a setting; did you mean split? legal: device, examples, generate, run, seed, split",
        ),
        ("generate=0", "generate=0: must be an integer, at least 1"),
        ("generate=5 temperature=0", "temperature=0: must be a number, above 0"),
        ("generate=5 to=made_up.csv", "to=made_up.csv: has no effect with generate"),
        ("generate=5 examples=2", "examples=2: has no effect with generate"),
        ("to=folder.csv", "to=folder.csv: is a folder"),
        ("temperature=0.5", "temperature=0.5: has no effect without generate"),
        (
            "model.hidden_size=3",
            "model.hidden_size is not a setting; legal: device, examples, generate, run, seed",
        ),
        ("split=tst", "split=tst: must be train, val or test; did you mean test?"),
        ("examples=-1", "examples=-1: must be an integer, at least 0"),
        ("seed=x", "seed=x: must be an integer, at least 0"),
        ("device=cuda", "device=cuda: PyTorch finds none on this machine"),
        ("split=val split=test", "split is given twice"),
        ("task.num_pairs=2 task.num_pairs=3", "task.num_pairs is given twice"),
        ("task=3", "task=3: only settings of the task can be changed: task.<key>=<value>"),
        ("task.num_pair=6", "task.num_pair is not a setting of task; did you mean num_pairs?"),
        ("task.num_pairs=27", "task.num_pairs=27: must be an integer, at least 1, at most 26"),
        (
            "task.num_pairs=12 task.replace_digits=false",
            "task.num_pairs=12: must be at most 10 with replace_digits=false",
        ),
    ],
)
def test_a_mistake_gives_one_line(arguments, says, tiny, composed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(composed(*tiny), tmp_path / ".hydra" / "config.yaml")
    (tmp_path / "folder.csv").mkdir()
    monkeypatch.chdir(tmp_path)
    code, out = command(monkeypatch, capsys, f"run={tmp_path}", *arguments.split())
    assert code.startswith(f"error: {says}")
    assert "\n" not in code
    assert out == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["split=val"], "run is missing"),
        (["run=nowhere"], "run=nowhere: not the folder of a run"),
        (["run"], "run=null: must be a string, not empty"),
        (["run="], "run=: must be a string, not empty"),
        (["run=*.no"], "run=*.no: matches no run"),
        (["run=~no such user/x"], "run=~no such user/x: Could not determine home directory."),
        (["run=x", "to=~no such user/x.csv"], "to=~no such user/x.csv: Could not determine home directory."),
        (["run=x", "to="], "to=: must be a string, not empty, or null"),
        (["run=x", "task.num_pairs={a"], "task.num_pairs={a: not a value; one with special characters needs quotes"),
    ],
)
def test_a_run_must_be_given(arguments, says, monkeypatch, capsys):
    assert command(monkeypatch, capsys, *arguments) == (f"error: {says}", "")


def test_a_run_without_a_checkpoint_is_refused(tiny, composed, tmp_path):
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(composed(*tiny), tmp_path / ".hydra" / "config.yaml")
    with pytest.raises(UserError, match=r"^run=.*: has no checkpoint$"):
        evaluated(tmp_path)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["run=x", "-h"]], ids=str)
def test_the_help_names_every_setting(arguments, monkeypatch, capsys):
    code, out = command(monkeypatch, capsys, *arguments)
    assert code == 0
    for setting in [*EvaluateSettings.__dataclass_fields__, "task.*"]:
        assert f"\n    {setting} " in out


QUICK = ["model=gru", "model.hidden_size=8", "trainer.batch_size=8", "trainer.max_updates=2", "trainer.eval_every=1"]


def trained(train, made_up_data, *overrides):
    """Train a run on made-up data and return its folder."""
    shutil.rmtree("outputs", ignore_errors=True)
    assert train(*QUICK, f"task.data_dir={made_up_data}", *overrides).status == 0
    (result,) = Path("outputs/runs").glob("*/result.json")
    return result.parent


def assert_the_coldest_temperature_takes_the_likeliest(folder, monkeypatch, capsys):
    made = [
        command(monkeypatch, capsys, f"run={folder}", "generate=20", f"temperature={temperature}", f"seed={seed}")
        for temperature, seed in (("1e-300", 0), ("1e-300", 1), ("1e-7", 0))
    ]
    assert made[0][0] == 0
    assert made[0] == made[1] == made[2]


def test_a_text_is_generated_from_a_run(train, made_up_data, monkeypatch, capsys):
    folder = trained(train, made_up_data, "task=language_model")
    lengths = []
    for settings in (["generate=70"], ["generate=70"], ["generate=70", "seed=1"], ["generate=70", "temperature=0.1"]):
        code, out = command(monkeypatch, capsys, f"run={folder}", *settings)
        assert code == 0
        lengths.append(out)
    assert len(lengths[0]) in (70, 71)
    assert lengths[0] == lengths[1] != lengths[2]
    assert lengths[3] not in lengths[:3]
    assert command(monkeypatch, capsys, "run=outputs/runs/*", "generate=70") == (0, lengths[0])
    assert_the_coldest_temperature_takes_the_likeliest(folder, monkeypatch, capsys)


def test_what_is_not_a_number_is_null_in_a_file(tmp_path):
    _write([{"run": "a", "update": 1, "test/error": math.nan}], str(tmp_path / "found.json"))
    assert json.loads((tmp_path / "found.json").read_text(), parse_constant=pytest.fail) == [
        {"run": "a", "update": 1, "test/error": None}
    ]


def test_a_run_is_not_evaluated_on_a_text_of_other_symbols(train, made_up_data, monkeypatch, capsys):
    for name, text in (("low", "abcd efgh "), ("other", "zbcy efgh "), ("same", "hgfe dcba ")):
        Path(f"{name}.txt").write_text(text * 50)
    folder = trained(train, made_up_data, "task=language_model", "task.file=low.txt")
    code, out = command(monkeypatch, capsys, f"run={folder}", "task.file=other.txt")
    assert out == ""
    assert code == (
        "error: the changed task has other symbols than the task of the run: only one of the two has 'a', 'd', 'y', 'z'"
    )
    assert command(monkeypatch, capsys, f"run={folder}", "task.file=same.txt")[0] == 0
    Path("low.txt").write_text("abcd efgH " * 50)
    code, _ = command(monkeypatch, capsys, f"run={folder}")
    assert code.startswith(f"error: run={folder}: the data files of its task have changed since it was trained")


def test_a_run_is_not_evaluated_on_photographs_that_have_changed(train, made_up_data, monkeypatch, capsys, tmp_path):
    for name in ("own", "other"):
        shutil.copytree(made_up_data / "multi_pie", tmp_path / name / "multi_pie")
    folder = trained(train, tmp_path / "own", "task=facial_expressions")
    photograph = next((tmp_path / "own").glob("multi_pie/smile/*.png"))
    photograph.rename(photograph.with_name("zoe_0.png"))
    code, _ = command(monkeypatch, capsys, f"run={folder}")
    assert code == f"error: run={folder}: {OTHER_DATA}"
    shutil.rmtree(tmp_path / "own")
    assert command(monkeypatch, capsys, f"run={folder}", f"task.data_dir={tmp_path}/other", "examples=0")[0] == 0


def test_a_piece_of_music_is_generated_from_a_run(train, made_up_data, monkeypatch, capsys):
    folder = trained(train, made_up_data, "task=polyphonic_music")
    code, out = command(monkeypatch, capsys, f"run={folder}", "generate=20")
    assert code == 0
    assert out.splitlines()[20:] == [f"{folder}/generated.png", f"{folder}/generated.mid"]
    assert (folder / "generated.png").stat().st_size > 1000
    assert (folder / "generated.mid").read_bytes().startswith(b"MThd")
    code, out = command(monkeypatch, capsys, f"run={folder}")
    assert (code, out.count("nats per frame")) == (0, 8)
    assert_the_coldest_temperature_takes_the_likeliest(folder, monkeypatch, capsys)


def test_other_tasks_generate_nothing(run, monkeypatch, capsys):
    code, out = command(monkeypatch, capsys, f"run={run()}", "generate=5")
    assert (code, out) == ("error: generate: this task does not predict its next inputs", "")


def test_without_its_data_a_run_says_what_is_missing(train, made_up_data, monkeypatch, capsys, tmp_path):
    folder = trained(train, made_up_data, "task=language_model", "task.text=penn_treebank")
    code, _ = command(monkeypatch, capsys, f"run={folder}", f"task.data_dir={tmp_path}/none")
    assert code.startswith(f"error: {tmp_path}/none/text/ptb.train.txt: no such file")
    ended = train(*QUICK, "task=language_model", "task.text=penn_treebank", "task.data_dir=none", "name=other")
    assert (ended.status, ended.err.count("\n")) == (1, 1)
    assert "ptb.train.txt: no such file, and it cannot be downloaded" in ended.err
    assert not Path("outputs/other").exists()


def test_a_run_without_the_files_of_hydra_is_evaluated_from_its_result(train, tiny):
    assert train(*tiny, "hydra.output_subdir=null", "model=lstm").status == 0
    (folder,) = Path("outputs/runs").glob("lstm*")
    metrics, _ = evaluate_run(EvaluateSettings(run=str(folder), examples=0), {})
    assert metrics == pytest.approx(
        {name: read_result(folder)["metrics"][f"test/{name}"] for name in metrics}, rel=1e-6
    )


def test_a_run_whose_stored_configuration_is_damaged_is_read_from_its_result(run):
    folder = run()
    stored, wanted = folder / ".hydra" / "config.yaml", read_config(folder)
    whole = stored.read_text()
    for damage in (whole[: len(whole) // 2], "", whole.replace("model:", "model: {"), "\0"):
        stored.write_text(damage)
        assert read_config(folder) == wanted
    (folder / "result.json").unlink()
    with pytest.raises(UserError, match=r"config.yaml"):
        read_config(folder)


def test_a_run_whose_settings_come_from_the_environment_is_read_from_its_result(train, tiny, monkeypatch):
    monkeypatch.setenv("OUT", "out")
    assert train(*tiny, "model=lstm", "run.root=${oc.env:OUT}").status == 0
    (folder,) = Path("out/runs").glob("lstm*")
    assert read_config(folder).run.root == "out"
    (folder / "result.json").unlink()
    with pytest.raises(UserError, match=r"run.root would run a resolver"):
        read_config(folder)


def test_checkpoints_of_another_run_are_refused(train, tiny):
    assert train("-m", *tiny, "model=lstm", "seed=0,1").status == 0
    first, second = sorted(Path("outputs/runs").glob("lstm*"))
    shutil.rmtree(first / "checkpoints")
    shutil.copytree(second / "checkpoints", first / "checkpoints")
    with pytest.raises(UserError, match="its checkpoints belong to another run"):
        evaluate_run(EvaluateSettings(run=str(first), examples=0), {})


def touching(node):
    """A node that touches the file `touched` when it is built."""
    return {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": ["touched"]}]} | node


def hostile():
    """Changes to a stored configuration, each of which touches or reads a file if any part of it is executed.

    Yields the name of each, the change, and a pattern that the refusal matches.
    """
    for group in ("model", "task", "network", "optimizer", "scheduler"):
        yield f"{group}._target_", {group: touching({})}, f"{group}._target_=pathlib.Path.touch: no such {group}"
        by_short_name = {group: {"_target_": f"touch.{group}", "self": "touched"}}
        yield f"{group} by its short name", by_short_name, f"{group}._target_=touch.{group}: no such {group}"
    for target in ("pandas.read_pickle", "joblib.load", "torch.load", "numpy.load", "runpy.run_path", "hostile.Model"):
        change = {"model": {"_target_": target, "_args_": ["payload"]}}
        yield target, change, f"model._target_={target}: no such model"
    yield "nested in a setting", {"model": {"hidden_size": touching({})}}, "}: must be an integer, at least 1"
    yield "nested in a list", {"optimizer": {"betas": [touching({}), 0.9]}}, "0.9]: must be a list, each item a number"
    yield "arguments", {"model": {"_args_": [touching({})]}}, "model._args_ is not a setting of model"
    in_part = {"task": {"_partial_": True, "anything": touching({})}}
    yield "a part of a group", in_part, "task._partial_ is not a setting of task"
    for group in ("hostile", "trainer", "run"):
        yield f"the group {group}", {group: touching({})}, f"{group}._target_=pathlib.Path.touch: no such {group}"
    for name, change in {
        "a resolver": {"name": "${touch:}"},
        "a resolver in a target": {"model": {"_target_": "src.models.${touch:}"}},
        "a resolver behind a backslash": {"name": r"\${touch:}"},
        "a resolver behind another": {"name": "${by:${touch:},{a:b}}"},
    }.items():
        yield name, change, "would (run a resolver|be evaluated)"


HOSTILE = list(hostile())


def test_there_are_enough_hostile_configurations():
    assert len(HOSTILE) >= 25


@pytest.mark.parametrize("stored_in", ["config.yaml", "result.json"])
@pytest.mark.parametrize(("change", "says"), [one[1:] for one in HOSTILE], ids=[one[0] for one in HOSTILE])
def test_a_hostile_configuration_executes_nothing(
    change, says, stored_in, tiny, composed, folder, tmp_path, monkeypatch, capsys, caplog
):
    """It is refused in one line, with and without changed settings, and left out of reports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    touched = tmp_path / "touched"
    (tmp_path / "hostile.py").write_text("import pathlib\npathlib.Path('touched').touch()\nModel = dict\n")
    (tmp_path / "payload").write_bytes(b"cpathlib\nPath.touch\n(cpathlib\nPath\n(Vtouched\ntRtR.")
    OmegaConf.register_new_resolver("touch", lambda: touched.touch() or "x", replace=True)
    config = OmegaConf.to_container(composed(*tiny), resolve=False)
    config.pop("hydra", None)
    for key, value in change.items():
        config[key] = config[key] | value if isinstance(value, dict) and key in config else value
    run = folder.path / folder.add()
    if stored_in == "config.yaml":
        (run / "result.json").unlink()
        (run / ".hydra").mkdir()
        (run / ".hydra" / "config.yaml").write_text(yaml.dump(config))
    else:
        folder.change(run.name, config=config)
    try:
        for changes in ([], ["task.num_pairs=3"]):
            code, out = command(monkeypatch, capsys, f"run={run}", *changes)
            assert code.startswith("error: ")
            assert re.search(says, code + caplog.text)  # for a damaged result, a warning gives the reason
            assert "\n" not in code
            assert out == ""
        load_runs(folder.path)
        update_hparams_page(folder.path)
        with pytest.raises(UserError, match=says):
            stored_config(config)
    finally:
        OmegaConf.clear_resolver("touch")
    assert not touched.exists()
    assert "hostile" not in sys.modules


def test_a_run_whose_checkpoints_are_all_damaged_is_not_one_without(run):
    folder = run()
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"^run=.*: none of its checkpoints can be used$"):
        evaluated(folder)


def test_several_runs_give_a_table_and_a_file(train_once, tiny, tmp_path, monkeypatch, capsys):
    train_once("-m", *tiny, "model=rnn", "seed=0,1", "name=both")
    results = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("outputs/both/*/result.json")}
    for to in ("found.csv", "found.json"):
        monkeypatch.setattr(sys, "argv", ["evaluate", "run=outputs/both/*", f"to={to}", "split=val"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code is None
    rows = json.loads(Path("found.json").read_text())
    assert {row["run"]: row["val/error"] for row in rows} == {
        name: result["metrics"]["val/error"] for name, result in results.items()
    }
    assert Path("found.csv").read_text().splitlines()[0] == "run,update,val/error,val/nll"
    assert len(Path("found.csv").read_text().splitlines()) == 3
    shown = capsys.readouterr().out
    assert all(name in shown for name in results)


def test_of_several_runs_those_that_cannot_be_evaluated_are_named(train_once, tiny, tmp_path, monkeypatch, capsys):
    train_once("-m", *tiny, "model=rnn", "seed=0,1", "name=both")
    damaged, whole = sorted(tmp_path.glob("outputs/both/rnn8-*"))
    for path in (damaged / "checkpoints").iterdir():
        path.write_bytes(b"")
    monkeypatch.setattr(sys, "argv", ["evaluate", "run=outputs/both/*"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == f"error: run=outputs/both/{damaged.name}: none of its checkpoints can be used"
    shown = capsys.readouterr().out
    assert whole.name in shown
    assert damaged.name not in shown
    for setting, says in (
        ("task.num_bits=3", f"error: outputs/both/{damaged.name}: task.num_bits is not a setting of task"),
        ("generate=5", "error: run=outputs/both/*: matches 2 runs, but generate takes only one"),
    ):
        code, _ = command(monkeypatch, capsys, "run=outputs/both/*", setting)
        assert code.startswith(says)


def test_a_run_is_loaded_from_python(run):
    folder = run()
    loaded = load_run(folder)
    assert loaded.config.optimizer.lr == 0.01
    assert loaded.metrics == read_result(folder)["metrics"]
    assert loaded.update == read_result(folder)["selected_update"]
    assert not loaded.model.training
    assert evaluate(loaded.model, loaded.task, "test") == {
        name.removeprefix("test/"): value for name, value in loaded.metrics.items() if name.startswith("test/")
    }
    with pytest.raises(UserError, match=r"not the folder of a run"):
        load_run(folder.parent)
