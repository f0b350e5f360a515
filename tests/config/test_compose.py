"""How the command line is rewritten before Hydra reads it, and which files completion and globs find."""

from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from src.config.compose import compose, for_hydra, with_one_value
from src.config.errors import explain
from src.config.fingerprint import fingerprint
from src.config.jobs import jobs_of
from src.config.paths import CONFIGS, folder_of_runs
from tests.compose import compose as composed_once


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (["model=lstm", "seed=1"], ["model=lstm", "seed=1"]),
        (["run.root=~/runs"], [f"run.root={Path.home()}/runs"]),
        (["run.root=~"], [f"run.root={Path.home()}"]),
        (["name=a~/b"], ["name=a~/b"]),
        (["~optimizer.lr"], ["~optimizer.lr"]),
        (["-m", "optimizer=sgd,rmsprop", "optimizer.momentum=0.9"],
         ["-m", "optimizer=sgd,rmsprop", "optimizer.momentum=choice(0.9)"]),
        (["-m", "optimizer=adam,adam", "optimizer.betas=[0.5,0.9]"],
         ["-m", "optimizer=adam,adam", "optimizer.betas=choice([0.5,0.9])"]),
        (["-m", "optimizer=sgd,rmsprop", "optimizer.lr=1,2", "model.decay=1"],
         ["-m", "optimizer=sgd,rmsprop", "optimizer.lr=1,2", "model.decay=1"]),
        (["optimizer=sgd,rmsprop", "optimizer.momentum=0.9"], ["optimizer=sgd,rmsprop", "optimizer.momentum=0.9"]),
        (["-m", "seed=0,1", "optimizer.lr=1"], ["-m", "seed=0,1", "optimizer.lr=1"]),
        (["model=lstm", "-m", "seed=0,1"], ["-m", "model=lstm", "seed=0,1"]),
    ],
)  # fmt: skip
def test_arguments_that_hydra_would_refuse_are_rewritten(given, taken):
    assert for_hydra(given) == taken


def test_the_overrides_that_give_one_value():
    several = ["seed=0,1", "seed=range(2)", "model=glob(r*)", "seed=choice(1)", "optimizer.lr=interval(0,1)"]
    one = ["model=rnn", "search.columns=[model,seed]", "~trainer.patience", "note='a, b'"]
    assert with_one_value([*several, *one]) == one


@pytest.mark.parametrize(
    ("overrides", "jobs"),
    [
        (["model=rnn", "seed=range(2)"], [["model=rnn", "seed=0"], ["model=rnn", "seed=1"]]),
        (["model=glob(retn*)"], [["model=retnet"]]),
        (["search.columns=[model,seed]", "seed=choice(1)"], [["search.columns=[model,seed]", "seed=1"]]),
        (["optimizer=sgd,rmsprop", "optimizer.momentum=0.5"],
         [[f"optimizer={name}", "optimizer.momentum=0.5"] for name in ("sgd", "rmsprop")]),
    ],
)  # fmt: skip
def test_the_jobs_of_a_sweep_that_no_command_has_started(overrides, jobs):
    found = list(jobs_of(overrides))
    assert [job for job, _ in found] == jobs
    assert len({fingerprint(config) for _, config in found}) == len(jobs)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model=lstm", "model.hidden_size=7", "seed=3", "optimizer=sgd", "optimizer.lr=1e-2"],
        ["optimizer.lr=2", "experiment=ba2016/table1", "model=irnn", "trainer.patience=null", "note='a, b'"],
        ["scheduler=cosine", "~scheduler", "search.columns=[model,seed]"],
        ["hydra/launcher=joblib", "+model.dropout=0.1"],
    ],
)
def test_composing_once_and_overriding_copies_is_composing(overrides):
    expected = compose(*overrides)
    for _ in range(2):
        found = composed_once(*overrides)
        assert found == expected
        assert OmegaConf.is_struct(found) == OmegaConf.is_struct(expected)
        found.seed = 9


@pytest.mark.parametrize("override", ["model.hiden_size=7", "seeed=1", "model=lsttm", "seed=0,1"])
def test_what_cannot_be_composed_is_the_same_error(override):
    errors = []
    for function in (compose, composed_once):
        with pytest.raises(HydraException) as error:
            function(override)
        errors.append(explain(error.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("root", ["~/runs", "'~/runs'", '"~/runs"'])
def test_a_tilde_is_the_home_folder_however_it_is_quoted(root, train, tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert train(f"run.root={root}", *tiny).status == 0
    assert list((tmp_path / "home" / "runs" / "runs").glob("*/result.json"))
    assert not (tmp_path / "~").exists()


def test_a_tilde_in_a_configuration_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/somebody")
    config = OmegaConf.create({"run": {"root": "~/runs"}, "name": "all"})
    assert folder_of_runs(config) == Path("/home/of/somebody/runs/all")


def test_files_in_subfolders_are_completed(train, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "fastweights experiment=ba2016/ta")
    completed = train("-sc", "query=bash").out.split()
    files = sorted((CONFIGS / "experiment" / "ba2016").glob("ta*.yaml"))
    assert completed == [f"experiment=ba2016/{file.stem}" for file in files]
    assert len(completed) > 4


def test_the_help_lists_a_file_in_its_own_folder_only(train):
    listed = dict(line.partition(": ")[::2] for line in train("--help").out.splitlines() if ": " in line)
    assert "table1" in listed["experiment/ba2016"].split(", ")
    assert "ba2016/table1" not in listed["experiment"].split(", ")
