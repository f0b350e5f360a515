"""The width at which a network has a requested number of weights."""

import pytest

from src.config import matching
from src.running.build import build_model, build_task


@pytest.mark.parametrize(("model", "step"), [("cp_gate", 1), ("alstm", 2), ("typed_rnn", 1)])
def test_no_other_width_is_closer_to_the_wanted_number_of_weights(model, step, composed):
    """The width of an associative LSTM must be even."""

    def off(width):
        config = composed(f"model={model}", f"model.hidden_size={width}", "task=addition")
        return abs(build_model(config, build_task(config)).num_parameters - 5000)

    found = composed(f"model={model}", "model.hidden_size=${units_for:5000}", "task=addition").model.hidden_size
    assert found % step == 0
    assert off(found) == min(off(found + steps * step) for steps in range(-2, 3))


def test_settings_that_follow_the_width_follow_the_width_found(composed):
    overrides = ["model=mathews2016/binding/cp_gate", "task=addition", "model.hidden_size=${units_for:700}"]
    config = composed(*overrides)
    assert config.model.rank == config.model.hidden_size
    assert abs(build_model(config, build_task(config)).num_parameters - 700) < 50


def test_settings_may_follow_those_of_other_groups(composed):
    overrides = ["task=addition", "network.head_size=${trainer.batch_size}", "trainer.batch_size=16"]
    config = composed(*overrides, "model=rnn", "model.hidden_size=${units_for:700}")
    assert config.network.head_size == 16
    assert abs(build_model(config, build_task(config)).num_parameters - 700) < 50


def test_the_width_goes_by_task_and_network_too(composed):
    wanted = ["model=rnn", "model.hidden_size=${units_for:5000}"]
    others = ["task=addition"], ["task=copying"], ["task=addition", "network.head_size=50"]
    assert len({composed(*wanted, *more).model.hidden_size for more in others}) == 3


@pytest.mark.parametrize("wanted", [0, "lstm", matching.MOST + 1])
def test_a_number_that_no_network_may_have_is_an_error_in_one_line(wanted, train):
    ended = train("task=addition", f"model.hidden_size=${{units_for:{wanted}}}")
    assert (ended.status, ended.err.count("\n")) == (1, 1)
    assert "must be an integer from 1 to 10,000,000" in ended.err


def test_a_network_that_cannot_be_built_at_any_width_is_an_error_in_one_line(train):
    ended = train("task=catch", "task.visible_frames=20", "model.hidden_size=${units_for:3000}")
    assert (ended.status, ended.err.count("\n")) == (1, 1)
    assert "${units_for:3000}: no network can be built: " in ended.err
    assert "visible_frames=20" in ended.err
