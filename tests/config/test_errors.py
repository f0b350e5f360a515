"""Every mistake produces one line that names the culprit and the legal values, before any folder is created."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from annotated_types import Ge, Gt, Le, Len, Lt, MinLen
from omegaconf import OmegaConf

from src.config import errors
from src.config.compose import compose
from src.config.errors import UserError, choose, explain, in_one_line, raised_by_hydra
from src.config.paths import PROJECT
from src.config.schema import PlainName, check_keys, describe
from src.specs import InputSpec, OutputSpec

MISTAKES = {
    "unknown group": ("modell=lstm", ["modell is not a setting; did you mean model?", "legal: device, model, name"]),
    "unknown option": ("model=lstmm", ["model=lstmm does not exist; did you mean lstm?", "legal: alstm, attention"]),
    "unknown option in a folder": (
        "model=descendants/titan",
        ["model=descendants/titan does not exist; did you mean descendants/titans?", "legal: descendants/attention"],
    ),
    "unknown folder": ("experiment=nowhere/x", ["experiment=nowhere/x does not exist; legal: ba2016/ablations/base"]),
    "option of an empty group": ("debug=shrt", ["debug=shrt does not exist; did you mean short?"]),
    "no option": ("model=", ["model= needs a value", "legal: alstm, attention, bilinear, convnet"]),
    "an option that is no file": ("trainer=fast", ["trainer=fast: must be a group of settings"]),
    "unknown key": ("sed=1", ["sed is not a setting; did you mean seed?", "legal: device, model"]),
    "unknown key with +": ("+sed=1", ["sed is not a setting; did you mean seed?"]),
    "unknown key with ++": ("++sed=1", ["sed is not a setting; did you mean seed?"]),
    "unknown nested key": ("model.hiden_size=8", ["model.hiden_size is not a setting of model", "mean hidden_size?"]),
    "a note that would be evaluated": (r'note="\${seed}"', ["note=${seed}: must not contain ${"]),
    "a key with two roles": (
        "-m search.repeated=[seed,optimizer.lr] seed=0,1",
        ["search.grid and search.repeated both list optimizer.lr"],
    ),
    "a column that is repeated": (
        "-m search.columns=[seed] seed=0,1",
        ["search.repeated and search.columns both list seed"],
    ),
    "unknown nested key with +": (
        "+trainer.max_update=5",
        ["trainer.max_update is not a setting of trainer; did you mean max_updates?", "batch_size, checkpoint_every"],
    ),
    "unknown nested key with ++": ("++optimizer.lrr=1", ["optimizer.lrr is not a setting of optimizer", "mean lr?"]),
    "key below an unknown one": ("++foo.bar=1", ["foo is not a setting", "legal: device, model"]),
    "key of Hydra's": ("hydra.foo=1", ["hydra.foo is not a setting of hydra", "legal: callbacks"]),
    "key taken away": ("~trainer.max_updates", ["trainer.max_updates is missing"]),
    "key with a default taken away": ("~optimizer.lr", ["optimizer.lr is missing"]),
    "null for a group": ("task=null", ["task=null; legal: addition, associative_retrieval"]),
    "number for a group": ("optimizer=5", ["optimizer=5; legal: adam, rmsprop, sgd"]),
    "null for settings": ("trainer=null", ["trainer=null: must be a group of settings"]),
    "half a list": ("seed=[", ["seed=[: not key=value", "quotes"]),
    "special character": ("name=mine!", ["name=mine!: not key=value", "quotes"]),
    "no value": ("seed", ["seed: not key=value"]),
    "no such configuration": ("--config-name=nosuch", ["--config-name=nosuch does not exist; legal: train"]),
    "no such folder of configurations": ("--config-path=/nosuch", ["config directory '/nosuch' exists"]),
    "a batch of no runs": ("-m seed=0,1 hydra.sweeper.max_batch_size=-1", ["max_batch_size=-1: must be at least 1"]),
    "no experiment": ("experiment=", ["experiment= needs a value; legal: ba2016/ablations/base"]),
    "key of another group": ("lr=3", ["lr is not a setting; did you mean optimizer.lr?"]),
    "nested key of another group": ("model.lr=3", ["model.lr is not a setting of model; did you mean optimizer.lr?"]),
    "exponent that is too large": ("trainer.log_every=1e308", ["log_every=1e+308: must be an integer, at least 1\n"]),
    "exponent for an integer": ("trainer.max_updates=1e4", ["must be an integer, at least 1; write 10000"]),
    "GPU by another name": ("device=gpu", ["device=gpu: must be auto, cpu or cuda; did you mean cuda?"]),
    "unknown searched key": ("search.grid=[optimiser.lr]", ["search.grid=[optimiser.lr]", "mean optimizer.lr?"]),
    "unknown column in a sweep": ("-m search.columns=[nokey] seed=0,1", ["search.columns=[nokey]: no run has this"]),
    "a sweep over names": ("-m name=a,b", ["name=a and name=b: name differs", "start one for each"]),
    "a sweep over roots": ("-m run.root=a,b seed=0,1", ["run.root=a and run.root=b: run differs"]),
    "a sweep over plans": ("-m search.two_stage=true,false", ["search.two_stage=True and", "search differs"]),
    "a sweep over sweeps": ("-m experiment=ba2016/table1,ba2016/figure2", ["experiment=ba2016/table1: has a grid"]),
    "sweeps by a glob": ("-m experiment=glob(ba2016/abl*)", ["experiment=ba2016/ablations/boundary: has a grid"]),
    "a glob without a match": ("-m experiment=glob(nosuch*)", ["experiment=glob(nosuch*): gives no values"]),
    "a range without steps": ("-m seed=range(1,2,0)", ["seed=range(1,2,0): range() arg 3 must not be zero"]),
    "an unknown function": ("-m optimizer.lr=nosuch(1)", ["optimizer.lr=nosuch(1): Unknown function 'nosuch'"]),
    "an empty range": ("-m seed=range(0,0)", ["seed=range(0,0): gives no values"]),
    "an interval in a sweep": ("-m optimizer.lr=interval(0,1)", ["optimizer.lr=interval(0,1): a sweep needs a list"]),
    "the same run under two intervals": ("-m trainer.log_every=1,2", ["trainer.log_every=1 and", "are the same run"]),
    "the same run on two devices": ("-m device=cpu,auto", ["device=cpu and device=auto: these jobs are the same run"]),
    "the same run twice": ("-m seed=0,0", ["seed=0: these jobs are the same run"]),
    "one folder for all runs": ("-m hydra.sweep.subdir=x seed=0,1", ["hydra.sweep.subdir=x: must be ${run_name:}"]),
    "several folders for a sweep": ("-m hydra.sweep.dir=${seed} seed=0,1", ["hydra.sweep.dir=${seed}: must be"]),
    "word for a number": ("model.hidden_size=many", ["model.hidden_size=many: must be an integer, at least 1"]),
    "fraction for an integer": ("task.num_pairs=4.5", ["task.num_pairs=4.5: must be an integer, at least 1"]),
    "number for a switch": ("model.layer_norm=1", ["model.layer_norm=1: must be true or false"]),
    "switch for a number": ("trainer.max_updates=true", ["trainer.max_updates=true: must be an integer, at least 1"]),
    "null for a number": ("model.hidden_size=null", ["model.hidden_size=null: must be an integer, at least 1"]),
    "short list": ("optimizer.betas=[0.9]", ["optimizer.betas=[0.9]: must be a list", "exactly 2 items"]),
    "a null that is removed": ("~trainer.patience", ["trainer.patience cannot be removed: there is", "it is null"]),
    "value for a group": ("run=1", ["run=1: must be a group of settings"]),
    "unknown choice": ("model.nonlinearity=rellu", ["model.nonlinearity=rellu: must be relu, tanh or linear", "relu?"]),
    "too small": ("model.hidden_size=0", ["model.hidden_size=0: must be an integer, at least 1"]),
    "too large": ("task.num_pairs=27", ["task.num_pairs=27: must be an integer, at least 1, at most 26"]),
    "outside of an interval": ("model.decay=1.5", ["model.decay=1.5: must be a number, at least 0, at most 1"]),
    "negative": ("trainer.max_updates=-1", ["trainer.max_updates=-1: must be an integer, at least 1"]),
    "too large for squared errors": (
        "task=hadamard_product task.scale=1e100",
        ["task.scale=1e+100: must be a number, above 0, at most 100000000"],
    ),
    "too many": ("network.num_layers=1001", ["network.num_layers=1001: must be an integer, at least 1, at most 1000"]),
    "zero or null": ("network.head_size=0", ["network.head_size=0: must be an integer, at least 1, or null"]),
    "not a number": ("trainer.stop_at=nan", ["trainer.stop_at=nan: must be a number, or null"]),
    "infinite": ("optimizer.lr=inf", ["optimizer.lr=inf: must be a number, at least 0"]),
    "seed beyond 63 bits": (f"seed={2**63}", [f"seed={2**63}: must be an integer, at least 0, below {2**63}"]),
    "counter beyond 63 bits": (
        f"trainer.max_updates={2**63}",
        [f"trainer.max_updates={2**63}: an integer must be above -{2**63} and below {2**63}"],
    ),
    "name that is a path": ("name=../x", ["name=../x: must be", "letters, digits, dots, hyphens and underscores"]),
    "long name": ("name=" + 101 * "a", [": must be a string", "at most 100 characters"]),
    "empty name": ("name=", ["name=: must be", "letters, digits, dots, hyphens and underscores"]),
    "root of the file system by accident": ("run.root=", ["run.root=: must be a string, not empty"]),
    "device that is not here": ("device=cuda", ["device=cuda: PyTorch finds none on this machine; legal: auto, cpu"]),
    "class that no file names": (
        "model._target_=src.models.lstm.X",
        ["model._target_=src.models.lstm.X: no file in configs/ names it; did you mean src.models.lstm.LSTM?"],
    ),
    "sweep without -m": ("model=irnn,lstm", ["model=irnn,lstm gives several values; add -m to run them all"]),
    "range without -m": ("seed=range(3)", ["seed=range(3) gives several values; add -m"]),
    "rule across a task's keys": (
        "task.replace_digits=false task.num_pairs=12",
        ["task.num_pairs=12: must be at most 10 with replace_digits=false"],
    ),
    "rule across an optimizer's keys": (
        "optimizer=sgd optimizer.nesterov=true",
        ["optimizer.nesterov=true: requires momentum above 0"],
    ),
    "one bad combination in a sweep": (
        "-m task.replace_digits=true,false task.num_pairs=4,12",
        ["task.num_pairs=12: must be at most 10 with replace_digits=false"],
    ),
    "one bad value in a sweep": ("-m model.hidden_size=4,0", ["model.hidden_size=0: must be an integer, at least 1"]),
    "one bad option in a sweep": ("-m model=irnn,lstmm", ["model=lstmm does not exist; did you mean lstm?"]),
    "key that one model lacks": ("-m model=fastweights,lstm model.decay=0.9", ["model.decay is not a setting"]),
    "file for a folder": ("run.root=file", ["file/runs", "Not a directory"]),
    "folder below a file": ("run.root=file/below", ["file/below", "Not a directory"]),
    "folder of a sweep below a file": ("-m run.root=file/below seed=0,1", ["file/below", "Not a directory"]),
}  # fmt: skip


def one_line(ended):
    assert ended.status == 1
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert "Traceback" not in ended.out + ended.err
    return ended.err


@pytest.mark.parametrize(("command", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_that_names_it_and_nothing_is_launched(command, says, train, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "file").touch()
    ended = train(*command.split())
    line = one_line(ended)
    for part in says:
        assert part in line
    assert ended.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("hiden_size: 8", "model.hiden_size is not a setting of model; did you mean hidden_size?"),
        ("hidden_size: 0", "model.hidden_size=0: must be an integer, at least 1"),
        ("hidden_size: ???", "model.hidden_size is missing"),
    ],
)
@pytest.mark.parametrize("where", ["--config-dir={}", "hydra.searchpath=[file://{}]"])
def test_a_mistake_in_a_file_is_found_as_on_the_command_line(content, says, where, train, tmp_path):
    (tmp_path / "extra" / "model").mkdir(parents=True)
    (tmp_path / "extra" / "model" / "mine.yaml").write_text(f"_target_: src.models.lstm.LSTM\n{content}\n")
    assert says in one_line(train(where.format(tmp_path / "extra"), "model=mine"))
    assert not (tmp_path / "outputs").exists()


def test_a_file_that_is_not_yaml_is_named(train, tmp_path):
    (tmp_path / "extra" / "model").mkdir(parents=True)
    (tmp_path / "extra" / "model" / "mine.yaml").write_text("hidden_size: [8\n")
    assert "mine.yaml" in one_line(train(f"--config-dir={tmp_path / 'extra'}", "model=mine"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES], ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_made_is_named(number, train, monkeypatch):
    def refuse(path, *arguments, **keywords):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    line = one_line(train())
    assert "outputs/runs" in line
    assert os.strerror(number) in line


def test_the_command_itself_prints_one_line_and_a_traceback_when_asked(tmp_path):
    def run(**environment):
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "src.train", "model=lstmm"],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(PROJECT)} | environment, capture_output=True, text=True,
        )  # fmt: skip

    short = run(HYDRA_FULL_ERROR="0")
    assert (short.returncode, short.stdout, short.stderr.count("\n")) == (1, "", 1)
    assert short.stderr.startswith("error: model=lstmm does not exist; did you mean lstm?")
    long = run(HYDRA_FULL_ERROR="1")
    assert long.returncode == 1
    assert "Traceback" in long.stderr
    assert not list(tmp_path.iterdir())


def test_a_local_file_without_its_package_line(train, tmp_path):
    (tmp_path / "extra" / "local").mkdir(parents=True)
    (tmp_path / "extra" / "local" / "default.yaml").write_text("seed: 3\n")
    line = one_line(train(f"--config-dir={tmp_path / 'extra'}"))
    assert "configs/local: the first line of a file there must be: # @package _global_" in line


def test_a_command_inside_another_gives_one_line_too(monkeypatch):
    """The outer command tells Hydra not to catch exceptions, which does not mean that the user wants tracebacks."""
    monkeypatch.setattr(errors, "_user_wants_tracebacks", False)
    with raised_by_hydra():
        assert os.environ["HYDRA_FULL_ERROR"] == "1"
        with pytest.raises(SystemExit) as ended, in_one_line():
            raise UserError("broken")
    assert ended.value.code == "error: broken"
    assert "HYDRA_FULL_ERROR" not in os.environ


@pytest.mark.parametrize(("module", "silent"), [("tensorboard.summary", True), ("src.sweeping", False)])
def test_only_the_death_of_tensorboards_thread_is_silent(module, silent, capsys):
    def fail():
        raise RuntimeError("dead")

    thread = type("Thread", (threading.Thread,), {"__module__": module})(target=fail)
    with in_one_line():
        thread.start()
        thread.join()
    assert ("RuntimeError: dead" in capsys.readouterr().err) is not silent


def test_what_the_user_should_not_see_is_not_named():
    def raised(error, during, **how):
        error.__context__ = during
        if "cause" in how:
            error.__cause__ = how["cause"]  # as `raise ... from` does
        return explain(error)

    missing = FileNotFoundError(2, "No such file or directory", "cache")
    assert raised(ValueError("wrong"), missing) == "ValueError: wrong"
    assert raised(ValueError("wrong"), missing, cause=None) == "ValueError: wrong"
    assert raised(ValueError("wrong"), KeyError(), cause=missing) == "cache: No such file or directory"
    assert raised(missing, ValueError("wrong")) == "cache: No such file or directory"
    assert raised(ValueError("wrong"), UserError("hidden"), cause=None) == "ValueError: wrong"
    assert raised(ValueError("wrong"), UserError("shown")) == "shown"


def test_the_mistake_inside_a_resolver_is_named():
    with pytest.raises(Exception) as caught:  # noqa: PT011 - OmegaConf's own
        OmegaConf.to_container(compose("model.hidden_size=${units_for:x}"), resolve=True)
    assert explain(caught.value) == "${units_for:x}: must be an integer from 1 to 10,000,000"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.hidden_size=${nosuch}", "model.hidden_size: Interpolation key 'nosuch' not found"),
        ("model.hidden_size=${nosuch:3}", "model.hidden_size: Unsupported interpolation type nosuch"),
        ("hydra.mode=X", "hydra.mode: Invalid value 'X', expected one of [RUN, MULTIRUN]"),
    ],
)
def test_omegaconfs_messages_begin_with_the_key_and_have_no_types(override, says):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - OmegaConf's own
        OmegaConf.to_container(compose(override), resolve=True)
    assert explain(caught.value) == says


def test_ctrl_c_in_any_command_is_status_130_and_the_next_one_ends_it():
    previous = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as ended, in_one_line():
            raise KeyboardInterrupt
        assert ended.value.code == 130
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, previous)


def test_choose_offers_the_nearest_spelling_only_if_one_is_near():
    assert choose("lstn", ["gru", "lstm"]) == "; did you mean lstm? legal: gru, lstm"
    assert choose("xyz", ["gru", "lstm"]) == "; legal: gru, lstm"
    assert choose("xyz", []) == "; legal: nothing"


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "an integer"),
        (float, "a number"),
        (bool, "true or false"),
        (str, "a string"),
        (Annotated[int, Ge(1)], "an integer, at least 1"),
        (Annotated[float, Gt(0), Le(1)], "a number, above 0, at most 1"),
        (Annotated[float, Ge(0), Lt(1)], "a number, at least 0, below 1"),
        (Annotated[int, Ge(1)] | None, "an integer, at least 1, or null"),
        (float | None, "a number, or null"),
        (Literal["a"], "a"),
        (Literal["a", "b"], "a or b"),
        (Literal["a", "b", "c"], "a, b or c"),
        (Literal["a", "b"] | None, "a or b, or null"),
        (list[int], "a list, each item an integer"),
        (Annotated[list[float], Len(2, 2)], "a list, each item a number, exactly 2 items"),
        (Annotated[str, MinLen(1)], "a string, not empty"),
        (Annotated[str, MinLen(3)], "a string, at least 3 characters"),
        (PlainName, "a string, letters, digits, dots, hyphens and underscores only, at most 100 characters"),
    ],
    ids=str,
)
def test_legal_values_are_described_in_words(hint, words):
    assert describe(hint) == words


def test_keys_are_the_keyword_only_parameters_and_all_of_them_are_required():
    def receiver(size, *, needed: int, choice: Literal["a", "b"] = "a"):
        pass

    check_keys(OmegaConf.create({"needed": 1, "choice": "b"}), receiver, "x")
    for content, says in {
        "{}": "x.needed is missing",
        "{needed: 1}": "x.choice is missing",
        "{needed: 1, size: 2}": "x.size is not a setting of x; legal: choice, needed",
        "{needed: 1, choice: c}": "x.choice=c: must be a or b",
        "{needed: '1'}": "x.needed=1: must be an integer",
        "[1]": "x=[1]: must be a group of settings",
    }.items():
        with pytest.raises(UserError) as caught:
            check_keys(OmegaConf.create(content), receiver, "x")
        assert str(caught.value) == says


def test_an_integer_will_do_where_a_number_is_asked_for():
    def receiver(*, rate: Annotated[float, Ge(0)]):
        pass

    check_keys(OmegaConf.create({"rate": 1}), receiver, "")


def test_what_is_missing_in_a_model_or_task_of_ones_own_is_said():
    def positional(input_size, hidden_size: int = 50): ...

    def unannotated(input_size, *, hidden_size=50): ...

    for receiver, says in (
        (positional, "model.hidden_size: settings must be keyword-only parameters, after the \\* in .*positional"),
        (unannotated, "unannotated: parameter hidden_size needs an annotation that says what is legal"),
    ):
        with pytest.raises(UserError, match=says):
            check_keys(OmegaConf.create({"hidden_size": 50}), receiver, "model")
    for spec, says in ((InputSpec, "input_spec.kind=token: must be"), (OutputSpec, "output_spec.kind=token: must be")):
        with pytest.raises(ValueError, match=says):
            spec("token", 3)
