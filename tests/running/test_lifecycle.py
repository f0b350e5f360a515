"""The life of a run: finished, repeated, interrupted, damaged, locked, failed, diverged."""

import errno
import fcntl
import json
import os
import re
import shlex
import signal
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.config.paths import PROJECT
from src.results.stored import warn
from src.running.conclusion import conclude
from src.running.lifecycle import clear, death_in
from src.running.provenance import provenance
from src.training import checkpoint
from src.training.trainer import Trainer
from src.utils import files, supervisor
from src.utils.supervisor import Death


def only_run(name="runs"):
    """The folder of the only run in `outputs`."""
    (folder,) = Path("outputs", name).glob("*-s*-*/")
    return folder


def result(folder):
    return json.loads((folder / "result.json").read_text())


def newest(folder):
    return checkpoint.load_newest(folder / "checkpoints", torch.device("cpu"), lambda content: content)


def scalars(folder):
    """Every point of every curve, as TensorBoard shows them."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def same_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def interrupt_at(monkeypatch):
    """Send a signal once, when a run has reached an update."""

    def arrange(update, number=signal.SIGINT):
        original = Trainer.do_update
        pending = [True]

        def interrupted(trainer):
            original(trainer)
            if trainer.state.update == update and pending.pop() is True:
                pending.append(False)
                signal.raise_signal(number)

        monkeypatch.setattr(Trainer, "do_update", interrupted)

    return arrange


def test_result_has_all_keys_and_the_metrics_of_the_selected_weights(train_once, tiny):
    train_once(*tiny)
    kept = result(only_run())
    assert kept["status"] == "finished"
    assert set(kept) >= {
        "status", "reason", "metrics", "selected_update", "updates", "seconds", "updates_per_second",
        "num_parameters", "state_size", "fingerprint", "config", "provenance", "floors",
    }  # fmt: skip
    assert set(kept["metrics"]) == {"val/error", "val/nll", "test/error", "test/nll"}
    assert set(kept["provenance"]) >= {"command", "git_commit", "git_dirty", "versions", "processor", "threads", "date"}
    errors = dict(scalars(only_run())["val/error"])
    assert errors[kept["selected_update"]] == min(errors.values())
    assert kept["metrics"]["val/error"] == pytest.approx(errors[kept["selected_update"]])
    assert only_run().name.endswith(kept["fingerprint"])


@pytest.mark.parametrize(
    ("answers", "recorded"),
    [
        ({}, (None, None)),  # no git
        ({"--show-toplevel": "/home/me", "HEAD": "abc", "--porcelain": ""}, (None, None)),
        ({"--show-toplevel": str(PROJECT), "HEAD": "abc", "--porcelain": ""}, ("abc", False)),
        ({"--show-toplevel": str(PROJECT), "HEAD": "abc", "--porcelain": " M README.md"}, ("abc", True)),
    ],
)
def test_the_recorded_commit_is_one_of_the_project(answers, recorded, monkeypatch):
    monkeypatch.setattr("src.running.provenance._git", lambda *arguments: answers.get(arguments[-1]))
    origin = provenance(1, "cpu")
    assert (origin["git_commit"], origin["git_dirty"]) == recorded


def test_the_card_is_recorded_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"that of {device}")
    assert [provenance(1, device)["card"] for device in ("cpu", "cuda")] == [None, "that of cuda"]


def test_the_recorded_command_of_a_run_in_a_sweep_is_that_run_alone(train, tiny):
    assert train("-m", *tiny, "task.num_pairs=2,3").status == 0
    for folder in Path("outputs/runs").glob("*-s*-*/"):
        program, *arguments = shlex.split(result(folder)["provenance"]["command"])
        assert (program, arguments[:2]) == ("python", ["-m", "src.train"])
        ended = train(*arguments[2:])
        assert f"{folder.name} has already finished" in ended.out


def test_a_run_takes_denormal_numbers_as_zero(train, tiny):
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor has no such setting")
    assert torch.tensor(1e-38) * 0.1 > 0
    assert train(*tiny).status == 0
    assert torch.tensor(1e-38) * 0.1 == 0


def test_a_run_does_without_the_files_of_hydra(train, tiny):
    assert train(*tiny, "hydra.output_subdir=null").status == 0
    assert not (only_run() / ".hydra").exists()
    assert result(only_run())["provenance"]["command"]


def test_a_finished_run_is_not_run_again(train, tiny, monkeypatch):
    train(*tiny, "note=first")
    before = result(only_run())
    monkeypatch.setattr(Trainer, "updates", None)
    for arguments, warnings in ((["trainer.log_every=3"], 0), (["note=first"], 0), (["note=second"], 1)):
        again = train(*tiny, *arguments)
        assert again.status == 0
        assert "has already finished" in again.out
        assert again.out.count("warning: note=second is not stored: the run has ended") == warnings
        assert result(only_run()) == before


def test_fresh_starts_over_and_gives_the_same_result_to_the_last_bit(train_once, train, tiny):
    train_once(*tiny)
    first, curves, weights = result(only_run()), scalars(only_run()), newest(only_run())["model"]
    again = train(*tiny, "run.fresh=true")
    assert again.status == 0
    assert f"{only_run()} starts" in again.out
    second = result(only_run())
    assert second["provenance"]["date"] >= first["provenance"]["date"]
    assert second["metrics"] == first["metrics"]
    assert same_weights(newest(only_run())["model"], weights)
    assert scalars(only_run()) == curves


def test_a_job_that_is_queued_again_starts_over_once(train, tiny, interrupt_at, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    interrupt_at(5)
    assert "starts" in train(*tiny, "run.fresh=true").out
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert "resumes from update 5" in train(*tiny, "run.fresh=true").out
    assert "has already finished" in train(*tiny, "run.fresh=true").out
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert "starts" in train(*tiny, "run.fresh=true").out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(train, tiny, interrupt_at, number):
    noisy = [*tiny, "trainer.weight_noise=0.01", "network.input_dropout=0.2", "scheduler=cosine"]
    train(*noisy, "name=whole")
    interrupt_at(5, number)
    stopped = train(*noisy, "name=stopped")
    assert stopped.status == 128 + number
    assert "stopped at update 5; the same command resumes it" in stopped.out
    assert result(only_run("stopped"))["status"] == "interrupted"

    resumed = train(*noisy, "name=stopped")
    assert resumed.status == 0
    assert "resumes from update 5" in resumed.out
    whole, stopped = only_run("whole"), only_run("stopped")
    assert whole.name == stopped.name
    assert result(whole)["metrics"] == result(stopped)["metrics"]
    assert scalars(whole) == scalars(stopped)
    assert same_weights(newest(whole)["model"], newest(stopped)["model"])


def test_a_run_killed_after_its_last_checkpoint_only_writes_its_result(train_once, train, tiny, monkeypatch):
    train_once(*tiny)
    before, curves = result(only_run()), scalars(only_run())
    (only_run() / "result.json").unlink()
    monkeypatch.setattr(Trainer, "do_update", None)
    assert train(*tiny).status == 0
    assert result(only_run())["metrics"] == before["metrics"]
    assert scalars(only_run()) == curves


def test_a_damaged_checkpoint_gives_way_to_the_one_before(train_once, train, tiny, interrupt_at):
    train_once(*tiny)
    Path("outputs/runs").rename("outputs/whole")
    interrupt_at(5)
    train(*tiny)
    last, before = sorted((only_run() / "checkpoints").iterdir(), reverse=True)
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)

    resumed = train(*tiny)
    assert resumed.status == 0
    reason = "its content does not match the hash in its name"
    assert f"warning: checkpoint {last} cannot be used: {reason}; using the previous one" in resumed.out
    assert "resumes from update 4" in resumed.out
    assert before.name.startswith("update-00000004")
    assert result(only_run())["metrics"] == result(only_run("whole"))["metrics"]
    assert scalars(only_run()) == scalars(only_run("whole"))


def test_with_all_checkpoints_damaged_the_run_starts_over(train, tiny, interrupt_at):
    interrupt_at(5)
    train(*tiny)
    for path in (only_run() / "checkpoints").iterdir():
        path.write_bytes(b"")
    again = train(*tiny)
    assert again.status == 0
    assert "it cannot be loaded" not in again.out
    assert "its content does not match the hash in its name; there is no other checkpoint" in again.out
    assert f"{only_run()} starts" in again.out
    assert [step for step, _ in scalars(only_run())["val/error"]] == [0, 3, 6]


def test_fresh_removes_a_link_in_the_place_of_the_checkpoints_and_nothing_behind_it(train_once, train, tiny):
    train_once(*tiny)
    folder = only_run()
    (folder / "checkpoints").rename("elsewhere")
    (folder / "checkpoints").symlink_to(Path("elsewhere").absolute())
    before = sorted(Path("elsewhere").iterdir())
    again = train(*tiny, "run.fresh=true")
    assert f"{folder} starts" in again.out
    assert not (folder / "checkpoints").is_symlink()
    assert sorted(Path("elsewhere").iterdir()) == before
    assert [step for step, _ in scalars(folder)["val/error"]] == [0, 3, 6]


def test_fresh_removes_only_what_runs_write(train_once, train, tiny):
    train_once(*tiny)
    own = only_run() / "checkpoints" / "my_notes.txt"
    own.write_text("mine")
    assert train(*tiny, "run.fresh=true").status == 0
    assert own.read_text() == "mine"


def test_nothing_of_a_result_is_left_where_a_run_starts_over(tmp_path):
    """Otherwise, a run that is killed before its end would be mistaken for the previous one."""
    checkpoint.save(tmp_path / "checkpoints", 3, {})
    for name in ("result.json", "metrics.jsonl", "events.out.tfevents.1", "train.log", "checkpoints/my_notes.txt"):
        (tmp_path / name).touch()
    clear(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {"train.log", "checkpoints", "my_notes.txt"}


def test_floors_that_cannot_be_drawn_do_not_fail_a_run(train, tiny):
    Path("outputs/runs").mkdir(parents=True)
    Path("outputs/runs/floors").touch()
    ended = train(*tiny)
    assert ended.status == 0
    assert "no floors in TensorBoard: " in ended.out


@pytest.mark.parametrize(
    "content", [b"{}", pytest.param(b"[" * 100_000, marks=pytest.mark.slow)], ids=lambda content: str(len(content))
)
def test_a_damaged_result_is_run_again_and_spoils_no_other_run(train_once, train, tiny, content):
    warn.cache_clear()
    train_once(*tiny)
    damaged = only_run()
    before = result(damaged)
    (damaged / "result.json").write_bytes(content)
    (damaged.parent / "figures").mkdir()
    (damaged.parent / "figures" / "cut_off.png").write_bytes(b"\x89PNG")
    healthy = train(*tiny, "seed=1")
    assert healthy.status == 0
    assert healthy.err == ""
    assert healthy.out.count(f"warning: {damaged}/result.json is damaged and counts as missing: ") == 1
    assert train(*tiny).status == 0
    assert result(damaged)["metrics"] == before["metrics"]


def test_a_checkpoint_of_another_configuration_is_refused(train, tiny, interrupt_at):
    train(*tiny, "seed=1")
    other = only_run()
    interrupt_at(5)
    train(*tiny)
    (mine,) = set(Path("outputs/runs").glob("*-s0-*"))
    for path in (mine / "checkpoints").iterdir():
        path.unlink()
    for path in (other / "checkpoints").iterdir():
        path.rename(mine / "checkpoints" / path.name)
    ended = train(*tiny)
    assert ended.status == 1
    assert ended.err.count("\n") == 1
    assert "its checkpoints belong to another run" in ended.err
    assert "run.fresh=true" in ended.err


def test_a_folder_in_use_turns_a_second_process_away(train_once, train, tiny):
    train_once(*tiny)
    with open(only_run() / ".lock", "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        turned_away = train(*tiny, "run.fresh=true")
    assert turned_away.status == 1
    assert turned_away.err == f"error: {only_run()} is in use by process {os.getpid()}\n"
    assert result(only_run())["status"] == "finished"


def test_divergence_is_a_result(train, tiny):
    ended = train(*tiny, "model=irnn", "optimizer=sgd", "optimizer.lr=1e30", "trainer.clip_norm=null")
    assert ended.status == 0
    kept = result(only_run())
    assert kept["status"] == "diverged"
    assert kept["reason"] == "a gradient between updates 1 and 3 is not finite"
    assert kept["selected_update"] == 0
    assert kept["metrics"]["test/error"] > 0.5
    assert "has already diverged" in train(
        *tiny, "model=irnn", "optimizer=sgd", "optimizer.lr=1e30", "trainer.clip_norm=null"
    ).out  # fmt: skip


def test_a_failure_is_recorded_with_its_traceback_and_run_again(train, tiny, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(Trainer, "do_update", lambda trainer: 1 / 0)
        ended = train(*tiny)
    assert ended.status == 1
    place = rf"src/running/together\.py:\d+, see {re.escape(str(only_run()))}/train\.log"
    assert re.fullmatch(rf"error: ZeroDivisionError: division by zero \({place}\)\n", ended.err)
    assert "Traceback" not in ended.out
    kept = result(only_run())
    assert kept["status"] == "failed"
    assert "ZeroDivisionError" in kept["traceback"]
    assert "ZeroDivisionError" in (only_run() / "train.log").read_text()
    assert train(*tiny, "run.retry_failed=false").status == 1
    assert train(*tiny).status == 0
    assert result(only_run())["status"] == "finished"


def test_a_full_disk_ends_in_one_line_and_loses_nothing(train_once, train, tiny, monkeypatch):
    train_once(*tiny)
    Path("outputs/runs").rename("outputs/whole")
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        ended = train(*tiny)
    assert ended.status == 1
    assert ended.err.count("\n") == 1
    assert "No space left on device" in ended.err
    assert not list(only_run().rglob("*.tmp"))

    assert train(*tiny).status == 0
    assert result(only_run())["metrics"] == result(only_run("whole"))["metrics"]


def test_a_result_that_cannot_be_written_is_a_failure(train_once, train, tiny, monkeypatch):
    train_once(*tiny)
    (only_run() / "result.json").unlink()

    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("src.results.result.write_whole", full)
    ended = train(*tiny)
    assert (ended.status, ended.err) == (1, f"error: {only_run()}/result.json: No space left on device\n")


def test_a_file_is_whole_or_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    files.write_whole(path, b"old")
    with monkeypatch.context() as disk:
        disk.setattr(os, "replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            files.write_whole(path, b"new")
    assert path.read_bytes() == b"old"


def test_debug_overfit_learns_its_one_batch(train, tiny):
    small = [item for item in tiny if not item.startswith(("trainer", "model"))]
    assert train(*small, "debug=overfit", "trainer.batch_size=8", "trainer.max_updates=150").status == 0
    assert scalars(only_run("debug"))["train/error"][-1][1] == 0


def test_debug_short_makes_a_few_updates_with_every_part_of_a_run(train, tiny):
    small = [item for item in tiny if not item.startswith("trainer")]
    assert train(*small, "debug=short", "trainer.batch_size=8").status == 0
    assert (result(only_run("debug"))["status"], result(only_run("debug"))["updates"]) == ("finished", 20)
    curves = scalars(only_run("debug"))
    assert [step for step, _ in curves["train/loss"]] == list(range(1, 21))
    assert [step for step, _ in curves["val/error"]] == [0, 10, 20]


def test_debug_anomaly_looks_for_nans(train, tiny, monkeypatch):
    seen, original = set(), Trainer.do_update

    def observed(trainer):
        seen.add(torch.is_anomaly_enabled())
        original(trainer)

    monkeypatch.setattr(Trainer, "do_update", observed)
    assert train(*tiny, "debug=anomaly").status == 0
    assert result(only_run("debug"))["status"] == "finished"
    assert seen == {True}


def test_debug_profile_says_where_the_time_goes(train, tiny):
    ended = train(*tiny, "debug=profile", "trainer.profile_updates=3", "trainer.max_updates=13")
    assert ended.status == 0
    assert "aten::" in ended.out
    assert (only_run("debug") / "trace.json").exists()


def test_more_updates_to_profile_than_there_are_is_one_line(train, tiny):
    ended = train(*tiny, "debug=profile", "trainer.max_updates=8")
    assert (ended.status, ended.err.count("\n")) == (1, 1)
    assert (
        "trainer.profile_updates=50: with 10 warm-up updates before them, more than trainer.max_updates=8" in ended.err
    )
    assert not Path("outputs").exists()


def test_a_run_is_not_resumed_on_another_text(train, tiny, tmp_path, interrupt_at):
    text = tmp_path / "own.txt"
    text.write_text("To be, or not to be. " * 40)
    small = [item for item in tiny if not item.startswith("task")]
    arguments = [*small, "task=language_model", "task.file=own.txt", "model=rnn", "trainer.max_updates=40"]
    interrupt_at(4, signal.SIGTERM)
    train(*arguments)
    checkpoints = sorted(only_run().glob("checkpoints/*.pt"))
    assert checkpoints
    more, fewer, same = "To be, or not to bE. " * 40, "To be or not to be, " * 40, "To be, or not to eb. " * 40
    assert set(same) == set(text.read_text()) < set(more)
    for other in (more, fewer, same):
        text.write_text(other)
        ended = train(*arguments)
        assert ended.status == 1
        assert "the data files of its task have changed since it was trained" in ended.err
        assert sorted(only_run().glob("checkpoints/*.pt")) == checkpoints
    text.write_text("To be, or not to be. " * 40)
    assert train(*arguments).status == 0
    assert result(only_run())["updates"] == 40


def test_debug_anomaly_names_the_operation_that_made_a_nan(train, tiny, monkeypatch, recwarn):
    def nan_loss(task, model, batch, state=None):
        step = original(task, model, batch, state)
        return step._replace(losses=step.losses | {"nan": (step.output.hidden_BTH.sum() * 0).sqrt()})

    from src.tasks.base import Task

    original = Task.loss
    monkeypatch.setattr(Task, "loss", nan_loss)
    ended = train(*tiny, "debug=anomaly")
    assert ended.status == 1
    assert "returned nan values" in ended.err


def test_a_folder_with_another_run_is_refused_before_anything_is_written(train, tiny):
    folder = Path("mine")
    assert train(*tiny, "hydra.run.dir=mine", "seed=0").status == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for more in ([], ["run.fresh=true"]):
        other = train(*tiny, "hydra.run.dir=mine", "seed=1", *more)
        assert other.status == 1
        assert re.fullmatch(
            r"error: mine holds another run \(\w{8}, this is \w{8}\); choose another folder\n", other.err
        )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (folder / "result.json").unlink()  # its configuration identifies it, too
    assert "holds another run" in train(*tiny, "hydra.run.dir=mine", "seed=1").err
    assert train(*tiny, "hydra.run.dir=mine", "seed=0").status == 0


def test_a_run_in_its_own_working_folder_shows_where_it_is(train, tiny, tmp_path):
    ended = train(*tiny, "hydra.job.chdir=true", "model=lstm")
    os.chdir(tmp_path)
    assert ended.status == 0
    assert f"tensorboard --logdir {tmp_path}/outputs/runs" in ended.out.replace("\n", "")
    assert list(Path("outputs/runs/summary").glob("events*"))  # the HParams page


DIVERGING = [
    "model=irnn",
    "model.recurrent_scale=5.0",
    "model.hidden_size=8",
    "task=addition",
    "task.sequence_length=50",
    "task.train_size=1000",
    "task.val_size=200",
    "task.test_size=10",
    "optimizer.lr=1e-9",
    "trainer.batch_size=1",
    "trainer.max_updates=30",
    "trainer.eval_every=15",
    "trainer.checkpoint_every=10",
]


def test_a_run_diverges_whether_or_not_it_is_interrupted(train, interrupt_at):
    """It ends at the next evaluation, for the same reason: whether gradients were finite is part of the checkpoint."""
    assert train(*DIVERGING, "trainer.log_every=30", "name=whole").status == 0
    whole = result(only_run("whole"))
    assert (whole["status"], whole["updates"]) == ("diverged", 15)
    for update in (5, 12):
        interrupt_at(update, signal.SIGINT)
        assert train(*DIVERGING, "trainer.log_every=1", f"name=parts{update}").status == 130
        train(*DIVERGING, "trainer.log_every=1", f"name=parts{update}")
        parts = result(only_run(f"parts{update}"))
        assert (parts["status"], parts["reason"], parts["updates"]) == ("diverged", whole["reason"], 15)


def test_what_killed_writes_left_is_removed_at_the_next_start(train_once, train, tiny):
    train_once(*tiny)
    left = [only_run() / ".result.json.1.tmp", only_run() / "checkpoints" / ".update-00000002.0.pt.1.tmp"]
    for path in left:
        path.write_bytes(b"half")
    (only_run() / "result.json").unlink()
    assert train(*tiny).status == 0
    assert not any(path.exists() for path in left)


def test_a_run_whose_process_has_died_is_not_started_again_by_the_same_command(train_once, train, tiny, monkeypatch):
    """A run from an experiment has a supervisor, which starts another process."""
    train_once(*tiny)
    (only_run() / "result.json").unlink()
    reason = "its process died (Killed), perhaps for lack of memory"
    monkeypatch.setattr(supervisor, "_deaths", [Death(os.getpid(), reason)])
    ended = train(*tiny)
    assert (ended.status, ended.out, ended.err) == (1, "", f"error: {only_run().name}: {reason}\n")
    kept = result(only_run())
    assert (kept["status"], kept["reason"]) == ("failed", reason)
    assert "hydra" not in kept["config"]
    monkeypatch.setattr(supervisor, "_deaths", [Death(0, reason)])
    assert "while no run was in progress" in train(*tiny, "seed=1").err


def test_a_finished_run_stays_finished_if_a_process_dies_that_has_only_looked_at_it(train_once, tiny, composed):
    train_once(*tiny)
    (only_run() / ".lock").write_text("12")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(supervisor, "_deaths", [Death(12, "it died")])
        assert death_in(only_run(), composed(*tiny)) is None
        assert death_in(only_run(), composed(*tiny, "run.fresh=true"))


def test_a_job_returns_the_test_metric_that_is_its_objective(tmp_path):
    ended = {"status": "finished", "seconds": 1.0, "metrics": {"test/error": 0.6, "test/nll": 2.3}, "objective": "nll"}
    assert conclude(ended, tmp_path / "run", in_sweep=True) == 2.3
