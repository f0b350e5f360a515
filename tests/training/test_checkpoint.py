"""Which checkpoints are kept, and which one a run resumes from if some are damaged."""

import copy
import logging
import os
from functools import partial

import pytest
import torch

from src.running.build import build_trainer
from src.training import checkpoint
from src.training.content import is_of_other_data
from src.training.optimizers import adam, rmsprop, sgd
from tests.training.test_trainer import Recorder, Sums, trainer_of

CPU = torch.device("cpu")


def updates(folder):
    return [checkpoint._update(path) for path in checkpoint.newest_first(folder)]


def loaded(folder):
    return checkpoint.load_newest(folder, CPU, lambda content: content["update"])


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_the_last_two_are_kept_by_their_numbers(tmp_path):
    for update in (99_999_998, 99_999_999, 100_000_000, 100_000_001):
        checkpoint.save(tmp_path, update, {"update": update})
    assert updates(tmp_path) == [100_000_001, 100_000_000]
    assert loaded(tmp_path) == 100_000_001


@pytest.mark.parametrize(
    ("content", "digest", "refused"),
    [
        ({"data": "a"}, "a", False),
        ({"data": "b"}, "a", True),
        ({"data": "a"}, "", False),
        ({"data": ""}, "a", False),
        ({}, "a", False),
    ],
)
def test_data_are_compared_as_far_as_they_are_known(content, digest, refused):
    assert is_of_other_data(content, digest) is refused


ODD = ["update-best.pt", "update-.pt", "update-5.pt", "update-00000009.copy.pt", "update-0000000x.0123456789abcdef.pt"]


def test_files_with_other_names_are_left_alone(tmp_path, caplog):
    for name in ODD:
        (tmp_path / name).write_text("mine")
    assert loaded(tmp_path) is None
    for update in range(4):
        checkpoint.save(tmp_path, update, {"update": update})
    assert loaded(tmp_path) == 3
    assert {path.name for path in tmp_path.iterdir()} > set(ODD)
    assert len(list(tmp_path.iterdir())) == len(ODD) + 2
    assert warnings(caplog) == []


def emptied(path):
    path.write_bytes(b"")


def replaced_by_a_folder(path):
    path.unlink()
    (path / "full").mkdir(parents=True)


def replaced_by_a_link(path):
    path.unlink()
    path.symlink_to("nowhere")


def replaced_by_a_pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGE = {
    "its content does not match the hash in its name": emptied,
    "not a file": replaced_by_a_folder,
    "not a file ": replaced_by_a_link,
    "not a file  ": replaced_by_a_pipe,
}


@pytest.mark.parametrize(("says", "damage"), DAMAGE.items(), ids=[damage.__name__ for damage in DAMAGE.values()])
def test_a_damaged_one_gives_way_to_the_one_before_and_is_not_among_the_two_that_are_kept(
    says, damage, tmp_path, caplog
):
    for update in (1, 2):
        checkpoint.save(tmp_path, update, {"update": update})
    newest, before = checkpoint.newest_first(tmp_path)
    damage(newest)
    assert loaded(tmp_path) == 1
    assert warnings(caplog) == [f"checkpoint {newest} cannot be used: {says.strip()}; using the previous one"]
    checkpoint.save(tmp_path, 3, {"update": 3})
    assert before in checkpoint.newest_first(tmp_path)
    assert loaded(tmp_path) == 3
    assert newest.is_dir() or (not newest.is_symlink() and not newest.exists())

    caplog.clear()
    for path in checkpoint.newest_first(tmp_path):
        if path.is_file():
            emptied(path)
    assert loaded(tmp_path) is None
    assert warnings(caplog)[-1].endswith("; there is no other checkpoint")


def test_a_checkpoint_that_a_run_did_not_resume_from_is_not_kept(tmp_path):
    for update in (4, 8):
        checkpoint.save(tmp_path, update, {"update": update})
    checkpoint.save(tmp_path, 6, {"update": 6})
    assert updates(tmp_path) == [6, 4]


def another_size(content):
    content["model"] = {name: torch.zeros(7) for name in content["model"]}


def another_type(content):
    content["selected"] = (1, {"mse": 1.0}, {name: one.double() for name, one in content["selected"][2].items()})


WRONG = {
    "input should be a valid dictionary": lambda content: [],
    "fingerprint: field required": lambda content: {},
    "update: input should be a valid integer": lambda content: content.update(update="5"),
    "update: input should be greater than or equal to 0": lambda content: content.update(update=-1),
    "seconds: input should be a valid number": lambda content: content.update(seconds=None),
    "model.": another_size,
    "model does not fit this run": lambda content: content["model"].popitem(),
    "model does not fit this run ": lambda content: content["model"].update(more=torch.zeros(1)),
    "selected.": another_type,
    "optimizer does not fit this run": lambda content: content["optimizer"].clear(),
    "optimizer.state.0 does not fit this run": lambda content: content["optimizer"]["state"][0].popitem(),
    "optimizer.param_groups does not fit this run": lambda content: content["optimizer"]["param_groups"].clear(),
    "optimizer.param_groups.0.lr does not fit this run": (
        lambda content: content["optimizer"]["param_groups"][0].update(lr="fast")
    ),
    "scheduler does not fit this run": lambda content: content["scheduler"].clear(),
    "rng does not fit this run": lambda content: content.update(rng=torch.zeros(3)),
    "rng: Invalid mt19937 state": lambda content: content.update(rng=torch.zeros_like(content["rng"])),
    "state.0 does not fit this run": lambda content: content.update(state=[torch.zeros(())]),
    "sum_of_norms does not fit this run": lambda content: content.update(sum_of_norms=torch.zeros(3)),
    "state does not fit this run": lambda content: content.update(state=[]),
    "outcome": lambda content: content.update(outcome=("finished",)),
}


@pytest.mark.parametrize(("says", "change"), WRONG.items(), ids=[f"{n} {says}" for n, says in enumerate(WRONG)])
def test_the_right_digest_of_the_wrong_content_gives_way_to_the_one_before(says, change, tmp_path, caplog):
    trainer = trainer_of(Sums(carries_state=True), tmp_path, make_optimizer=adam, max_updates=10)
    trainer.fit(Recorder(), Recorder())
    folder = tmp_path / "checkpoints"
    (newest, before) = checkpoint.newest_first(folder)
    content = checkpoint.read(newest, CPU)
    newest.unlink()
    changed = copy.deepcopy(content)
    instead = change(changed)
    wrong = checkpoint.write(folder, 10, instead if isinstance(instead, list | dict) else changed)

    resumed = trainer_of(Sums(carries_state=True), tmp_path, make_optimizer=adam, max_updates=10)
    assert resumed.checkpoints.resume(resumed.state)
    assert resumed.state.update == checkpoint._update(before)
    (warning,) = warnings(caplog)
    assert warning.startswith(f"checkpoint {wrong} cannot be used: {says.strip()}")
    assert warning.endswith("; using the previous one")

    before.unlink()
    untouched = trainer_of(Sums(carries_state=True), tmp_path, make_optimizer=adam, max_updates=10)
    weights, rng = copy.deepcopy(untouched.model.state_dict()), torch.get_rng_state()
    assert not untouched.checkpoints.resume(untouched.state)
    assert all(torch.equal(weights[name], now) for name, now in untouched.model.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())
    assert untouched.state.update == 0


@pytest.mark.parametrize("optimizer", [adam, rmsprop, sgd, partial(sgd, momentum=0.9)])
def test_a_checkpoint_of_every_optimizer_is_taken(optimizer, tmp_path):
    trainer = trainer_of(Sums(), tmp_path, make_optimizer=optimizer, max_updates=10)
    trainer.stop_requested = True
    trainer.fit(Recorder(), Recorder())
    at_first = trainer_of(Sums(), tmp_path, make_optimizer=optimizer, max_updates=10)
    assert at_first.checkpoints.resume(at_first.state)
    trainer.stop_requested = False
    trainer.fit(Recorder(), Recorder())
    resumed = trainer_of(Sums(), tmp_path, make_optimizer=optimizer, max_updates=10)
    assert resumed.checkpoints.resume(resumed.state)
    assert resumed.state.update == 10


@pytest.mark.parametrize("scheduler", ["step", "plateau"])
def test_a_learning_rate_may_be_a_whole_number(scheduler, composed, tmp_path):
    config = composed("model.hidden_size=6", "optimizer.lr=1", f"scheduler={scheduler}")
    trainer, resumed = (build_trainer(config, tmp_path, "0") for _ in range(2))
    trainer.checkpoints.save(trainer.state)
    assert resumed.checkpoints.resume(resumed.state)
