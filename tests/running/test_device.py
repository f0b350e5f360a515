"""Which of two devices is chosen: here the times are given, and the GPU is made up."""

import json
import logging

import pytest
import torch

from src.config.errors import UserError
from src.running import build, device


class Card:
    """A machine with a GPU, on which updates take given times."""

    def __init__(self):
        self.name = "a card"
        self.ms = {"cpu": 0.6, "cuda": 11.0}
        self.measured = []
        """The devices that have been timed."""

    def measure(self, config, device):
        self.measured.append(device)
        if isinstance(self.ms[device], Exception):
            raise self.ms[device]
        return self.ms[device]

    def takes(self, config):
        """The device that a new process chooses."""
        device._known.clear()
        return build.choose_device(config).type


@pytest.fixture
def card(monkeypatch, tmp_path):
    made = Card()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: made.name)
    monkeypatch.setattr(build, "ms_per_update", made.measure)
    yield made
    device._known.clear()


def test_the_faster_device_is_taken_and_said_in_one_line(card, composed, caplog):
    with caplog.at_level(logging.INFO):
        assert card.takes(composed()) == "cpu"
        assert build.choose_device(composed()).type == "cpu"
    assert [record.getMessage() for record in caplog.records] == [
        "device=auto selects cpu (cpu: 0.6 ms, cuda: 11 ms per update)"
    ]
    card.ms = {"cpu": 5.0, "cuda": 0.2}
    assert card.takes(composed("model=lstm")) == "cuda"


def test_it_is_measured_once_and_remembered(card, composed):
    for _ in range(2):
        assert card.takes(composed()) == "cpu"
    assert card.measured == ["cpu", "cuda"]


@pytest.mark.parametrize(
    "override",
    ["seed=3", "optimizer.lr=0.5", "model.decay=0.5", "task.train_size=7", "name=x", "trainer.clip_norm=null"],
)
def test_what_does_not_change_the_speed_is_not_measured_again(card, composed, override):
    card.takes(composed())
    card.takes(composed(override))
    assert len(card.measured) == 2


@pytest.mark.parametrize(
    "override",
    ["model=lstm", "model.hidden_size=7", "trainer.batch_size=7", "task.num_pairs=3", "model.kernel=reference",
     "optimizer=sgd", "trainer.precision=bfloat16", "network.input_dropout=0.5", "trainer.threads=2",
     "trainer.detect_anomaly=true", "run.cuda_graphs=false"],
)  # fmt: skip
def test_what_changes_the_speed_is_measured(card, composed, override):
    card.takes(composed())
    card.takes(composed(override))
    assert len(card.measured) == 4


def test_another_card_or_other_code_is_measured(card, composed, monkeypatch):
    card.takes(composed())
    card.name = "another card"
    card.takes(composed())
    monkeypatch.setattr(device, "_code", lambda: "other code")
    card.takes(composed())
    assert len(card.measured) == 6


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"cpu": 1.0}', '{"cpu": 1.0, "cuda": -1.0}', '{"cpu": 1.0, "cuda": NaN}',
     '{"cpu": 1, "cuda": "1"}', '{"cpu": 1.0, "cuda": 1.0, "mps": 1.0}', "x" * 200_000],
    ids=lambda content: content[:30],
)  # fmt: skip
def test_a_damaged_file_is_measured_again(card, composed, content, tmp_path):
    card.takes(composed())
    (path,) = tmp_path.rglob("*.json")
    path.write_text(content)
    card.takes(composed())
    assert len(card.measured) == 4
    assert json.loads(path.read_text()) == card.ms


def test_a_device_that_fails_is_not_taken_and_not_remembered(card, composed, caplog, tmp_path):
    card.ms = {"cpu": 5.0, "cuda": UserError("out of memory")}
    assert card.takes(composed()) == "cpu"
    assert "device=auto: an update on cuda failed: out of memory" in caplog.messages
    assert not list(tmp_path.rglob("*.json"))
    card.ms = {"cpu": UserError("no kernel"), "cuda": UserError("out of memory")}
    with caplog.at_level(logging.INFO):
        assert card.takes(composed()) == "cpu"
    assert caplog.messages[-1] == "device=auto selects cpu"
    card.ms = {"cpu": 5.0, "cuda": 1.0}
    assert card.takes(composed()) == "cuda"


def test_where_nothing_can_be_written_it_is_measured_all_the_same(card, composed, caplog, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "file"))
    assert card.takes(composed()) == "cpu"
    assert len(card.measured) == 2
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert warning.startswith("device=auto: the measured times cannot be stored for later runs: ")


def test_an_evaluation_measures_nothing(card, composed):
    assert build.choose_device(composed(), to_train=False).type == "cpu"
    assert card.measured == []
    card.ms = {"cpu": 5.0, "cuda": 1.0}
    card.takes(composed())
    assert build.choose_device(composed(), to_train=False).type == "cuda"
