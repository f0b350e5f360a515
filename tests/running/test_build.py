"""The checks before a run: whether it fits this machine, and on which device it runs."""

import pytest
import torch

from src.config.errors import UserError
from src.ops.cpu import calls
from src.running import build, sizes

HUGE = 10**12


@pytest.fixture(autouse=True)
def _machine(monkeypatch):
    """A machine with two cores and 4 GB."""
    monkeypatch.setattr(sizes, "memory", lambda: 4 * 10**9)
    monkeypatch.setattr(sizes, "num_cores", lambda: 2)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (f"trainer.batch_size={HUGE}", f"trainer.batch_size={HUGE}: a batch and its hidden states would take at least"),
        (f"-m trainer.batch_size=8,{HUGE}", f"trainer.batch_size={HUGE}: a batch"),
        (f"task.train_size={HUGE}", f"task.train_size={HUGE}: the data would take at least 104,000 GB of memory"),
        (f"task.test_size={HUGE}", f"task.test_size={HUGE}: the data would take"),
        ("model.hidden_size=1000000000", "model.hidden_size=1000000000: its weights would take"),
        ("model=gru model.hidden_size=200000", "model.hidden_size=200000: its weights would take"),
        (f"network.embedding_size={HUGE}", f"network.embedding_size={HUGE}: its weights would take"),
        (f"task=copying task.sequence_length={HUGE}", f"task.sequence_length={HUGE}: the data would take"),
        (f"task=addition task.sequence_length={HUGE}", f"task.sequence_length={HUGE}: the data would take"),
        (f"task=variable_binding task.sequence_length={HUGE}", f"task.sequence_length={HUGE}: the data would take"),
        (
            "task=copying task.sequence_length=100000 task.val_size=9 task.test_size=9 trainer.batch_size=9999",
            "task.sequence_length=100000: a batch and its hidden states would take at least 216 GB of memory; there",
        ),
        (
            "task=catch task.size=64 trainer.batch_size=9999",
            "trainer.batch_size=9999: a batch and its hidden states would take at least 10 GB of memory; there",
        ),
        ("trainer.threads=3", "trainer.threads=3: must be at most 2, the number of cores here"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_key_and_leaves_nothing(command, says, train, tmp_path):
    ended = train(*command.split())
    assert ended.status == 1
    assert ended.err.startswith(f"error: {says}")
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_fresh_training_data_are_as_many_to_evaluate_on_as_those_to_validate_on(composed):
    config = composed("task=copying", f"task.val_size={HUGE}")
    with pytest.raises(UserError, match=f"task.val_size={HUGE}: the data would take at least"):
        sizes.check_data(config, build.build_task(config), ["train"])


def test_a_stored_run_needs_no_room_for_its_training(composed):
    for override in (f"trainer.batch_size={HUGE}", f"task.train_size={HUGE}", "trainer.threads=3"):
        build.check(composed(override))
        with pytest.raises(UserError, match=f"^{override}: "):
            build.check(composed(override), to_run=True)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_kernel_that_cannot_be_made_is_refused_before_the_run(layers, composed):
    if not calls.available(torch.empty(0)):
        pytest.skip("no compiler")
    config = composed("model=attention", "model.kernel=fused", f"network.num_layers={layers}")
    build.check(config)
    with pytest.raises(UserError, match=r"^model\.kernel=fused: there is no kernel for the step of Attention: "):
        build.check(config, to_run=True)


def test_everything_else_is_not_in_the_way(composed):
    build.check(composed("trainer.threads=2", "trainer.batch_size=10000"), to_run=True)


def test_a_mistake_in_a_constructor_is_one_line_with_its_place(composed, monkeypatch):
    monkeypatch.setattr("src.models.gru.math", None)
    says = r"^model: AttributeError: 'NoneType' object has no attribute 'sqrt' \(src/models/gru.py:\d+\)$"
    with pytest.raises(UserError, match=says):
        build.check(composed("model=gru"))


def test_without_a_gpu_nothing_is_measured(composed, monkeypatch):
    monkeypatch.setattr(build, "ms_per_update", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert build.choose_device(composed()).type == "cpu"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_device_that_is_named_is_taken_unmeasured(device, composed, monkeypatch):
    monkeypatch.setattr(build, "ms_per_update", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert build.choose_device(composed(f"device={device}")).type == device


def test_threads_and_deterministic_algorithms_are_those_of_the_settings(composed, tmp_path, monkeypatch):
    told = {}
    for name in ("set_num_threads", "use_deterministic_algorithms"):
        monkeypatch.setattr(torch, name, lambda value, name=name: told.update({name: value}))
    build.build_trainer(composed("device=cpu", "trainer.threads=2", "trainer.deterministic=true"), tmp_path, "")
    assert told == {"set_num_threads": 2, "use_deterministic_algorithms": True}


def test_measuring_an_update_leaves_no_trace(composed, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()
    config = composed(*tiny)
    assert build.ms_per_update(config, "cpu") > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("logging", "printed", "stored"),
    [("disabled", False, False), ("none", True, False), ("stdout", True, False), ("default", True, True)],
)
def test_any_of_hydras_ways_of_logging(logging, printed, stored, train, tiny, tmp_path):
    ended = train(*tiny, f"hydra/job_logging={logging}")
    assert ended.status == 0
    assert ended.out.count("update 6  val/error") == printed
    assert ended.out.count("finished: all 6 updates done") == 1
    logs = [path.read_text() for path in tmp_path.rglob("train.log")]
    assert [log.count("update 6  val/error") for log in logs] == [1] * stored
