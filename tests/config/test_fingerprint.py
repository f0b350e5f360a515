"""A run is identified by everything that can change its result, and by nothing else."""

import dataclasses
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from src.config.fingerprint import WITHOUT_EFFECT, decisive_keys, fingerprint, run_name
from src.config.resolvers import register_resolvers
from src.config.schema import Neutral, Settings, locate, signature
from src.config.settings import flat, short_name, varied
from src.running.build import check


def leaves(node, prefix=""):
    for key, value in node.items():
        if OmegaConf.is_dict(value):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def annotation(config, path):
    """The annotation of a key in the signature of its receiver, which states the legal values."""
    receiver, hint = Settings, None
    for depth, key in enumerate(parts := path.split(".")):
        hint = signature(receiver)[0][key]
        if hint is Any:
            receiver = locate(OmegaConf.select(config, ".".join([*parts[: depth + 1], "_target_"])), path)
        elif dataclasses.is_dataclass(hint):
            receiver = hint
    return hint


def another(hint, value):
    """A legal value other than the given one."""
    if get_origin(hint) in (Union, UnionType):
        return another(next(option for option in get_args(hint) if option is not NoneType), value)
    if get_origin(hint) is Annotated:
        kind = get_args(hint)[0]
        if get_origin(kind) in (Union, UnionType):
            return another([option for option in get_args(kind) if option is not NoneType][-1], value)
        if get_origin(kind) is list:
            return [another(get_args(kind)[0], item) for item in value]
        if get_origin(kind) is Literal or kind is bool:
            return another(kind, value)
        candidates = {int: [2, 3], float: [0.5, 0.25], str: ["other"]}[kind]
        return next(candidate for candidate in candidates if candidate != value)
    if get_origin(hint) is list:
        return [*value, "other"]
    if get_origin(hint) is Literal:
        return next(option for option in get_args(hint) if option != value)
    return not value if hint is bool else (value or 0.0) + 0.5


def changed(config, path):
    other = config.copy()
    OmegaConf.update(other, path, another(annotation(config, path), OmegaConf.select(config, path)))
    return other


def test_every_key_counts_but_these(composed):
    config = composed()
    paths = [path for path in leaves(config) if not path.endswith("_target_")]
    assert len(paths) > 40
    without_effect = set()
    for path in paths:
        other = changed(config, path)
        assert OmegaConf.select(other, path) != OmegaConf.select(config, path)
        if fingerprint(other) == fingerprint(config):
            without_effect.add(path)
    places = {"name", "note", "device", "run.root", "run.fresh", "run.retry_failed", "run.together", "run.cuda_graphs"}
    logging = {f"trainer.{key}" for key in ("log_every", "checkpoint_every", "histograms", "profile_updates")}
    reporting = {f"search.{key}" for key in ("grid", "repeated", "columns", "two_stage")}
    assert without_effect == places | logging | reporting
    for key in set(WITHOUT_EFFECT) - {"task.data_dir"}:
        assert any(path == key or path.startswith(f"{key}.") for path in without_effect), f"there is no {key}"


def test_the_folder_of_the_data_makes_no_difference(composed):
    for task in ("polyphonic_music", "language_model"):
        config, moved = composed(f"task={task}"), composed(f"task={task}", "task.data_dir=elsewhere")
        assert fingerprint(moved) == fingerprint(config) != fingerprint(composed(f"task={task}", "task.window=7"))
        assert "task.data_dir" not in decisive_keys(moved)


def test_a_run_keeps_its_fingerprint():
    """If this fingerprint changed, all existing runs would start over."""
    settings = {
        "name": "mine",
        "seed": 1,
        "model": {"_target_": "src.models.lstm.LSTM", "hidden_size": 8},
        "optimizer": {"_target_": "src.training.optimizers.adam", "lr": 1e-3, "betas": [0.9, 1.0]},
        "trainer": {"max_updates": 10, "clip_norm": None, "threads": 1, "log_every": 5},
    }
    assert fingerprint(OmegaConf.create(settings)) == "818de112"


def test_the_order_of_keys_does_not_matter(composed):
    config = composed()
    backwards = OmegaConf.create({key: config[key] for key in reversed(list(config))})
    assert list(backwards) != list(config)
    assert fingerprint(backwards) == fingerprint(config)


def test_every_changed_configuration_was_a_legal_one(composed):
    # a network without a head needs as many units as there are classes, and a memory size needs association=hetero
    config = composed("model.hidden_size=10", "model.association=hetero")
    for path in leaves(config):
        if not path.endswith("_target_") and path != "device":
            check(changed(config, path))


def test_another_model_task_optimizer_or_schedule_is_another_run(composed):
    choices = [
        "model=rnn",
        "task=copying",
        "optimizer=sgd",
        "scheduler=constant",
        "scheduler=step",
        "scheduler=exponential",
    ]
    commands = [[], *([choice] for choice in choices)]
    assert len({fingerprint(composed(*overrides)) for overrides in commands}) == len(commands)


@pytest.mark.parametrize(
    "spellings",
    [
        [["optimizer.lr=1e-3"], ["optimizer.lr=0.001"], ["optimizer.lr=1.0e-03"], ["++optimizer.lr=0.001"], []],
        [["trainer.clip_norm=1"], ["trainer.clip_norm=1.0"], ["trainer.clip_norm=1e0"]],
        [["optimizer.betas=[0,0.9]"], ["optimizer.betas=[0.0,0.9]"], ["optimizer.betas=[0.,0.90]"]],
        [["model=lstm", "seed=1"], ["seed=1", "model=lstm"], ["seed=0", "model=lstm", "seed=1"]],
        [["model=lstm"], ["model=lstm", "model.hidden_size=50"], ["model.hidden_size=50", "model=lstm"]],
        [["model.nonlinearity=tanh"], ["model.nonlinearity='tanh'"]],
        [["seed=50"], ["seed=${model.hidden_size}"]],
        [["trainer.stop_at=null"], ["trainer.stop_at=Null"], []],
    ],
    ids=str,
)  # fmt: skip
def test_the_spelling_of_a_command_does_not_matter(spellings, composed):
    assert len({run_name(composed(*overrides)) for overrides in spellings}) == 1


def test_true_is_not_one(composed):
    with_one = OmegaConf.merge(composed(), {"seed": 1})
    with_true = OmegaConf.merge(composed(), {"seed": True})
    assert fingerprint(with_one) != fingerprint(with_true)


def test_the_name_of_a_run_can_be_read(composed):
    config = composed("model=lstm", "model.hidden_size=20", "task=copying", "optimizer.lr=1e-4", "seed=3")
    assert run_name(config) == f"lstm20-copying-lr0.0001-s3-{fingerprint(config)}"
    assert len(fingerprint(config)) == 8
    assert int(fingerprint(config), 16) >= 0


def test_a_run_has_one_folder_whether_it_is_launched_alone_or_by_a_sweep(train, tiny, tmp_path):
    quick = [*tiny, "model=rnn"]
    assert train(*quick, "optimizer.lr=1e-3").status == 0
    alone = {path.name for path in tmp_path.glob("outputs/runs/rnn8-*/")}
    assert len(alone) == 1
    swept = train("-m", "optimizer.lr=0.001,0.01", *reversed(quick))
    assert swept.status == 0
    assert "1 of 2 runs have ended already" in swept.out
    together = {path.name for path in tmp_path.glob("outputs/runs/rnn8-*/")}
    assert len(together) == 2
    assert alone < together
    assert len([*tmp_path.glob("outputs/runs/*/result.json")]) == 2


def test_flat_settings_have_full_keys_and_choices_are_named_by_their_group():
    settings = {
        "seed": 1,
        "model": {"_target_": "src.models.lstm.LSTM", "hidden_size": 8, "layer_norm": True},
        "optimizer": {"_target_": "src.training.optimizers.adam", "betas": [0.9, 0.999], "lr": 0.1},
        "trainer": {"stop_at": None},
    }
    assert flat(settings) == {
        "seed": 1,
        "model": "lstm",
        "model.hidden_size": 8,
        "model.layer_norm": True,
        "optimizer": "adam",
        "optimizer.betas": "[0.9, 0.999]",
        "optimizer.lr": 0.1,
        "trainer.stop_at": "None",
    }


def test_the_short_name_is_the_module_of_a_class_and_the_name_of_a_function():
    assert short_name("src.models.fastweights.FastWeights") == "fastweights"
    assert short_name("src.training.optimizers.adam") == "adam"
    assert short_name("lstm") == "lstm"


def test_a_class_that_has_moved_is_the_same_run(composed):
    config = composed()
    moved = config.copy()
    moved.model._target_ = "src.somewhere.else.fastweights.FastWeights"
    moved.optimizer._target_ = "src.optimizers.adam"
    assert run_name(moved) == run_name(config)
    moved.model._target_ = "src.models.lstm.LSTM"
    assert run_name(moved) != run_name(config)


def test_threads_count_unless_there_is_one(composed):
    assert run_name(composed("trainer.threads=1")) == run_name(composed())
    assert run_name(composed("trainer.threads=2")) != run_name(composed())


def test_a_configuration_from_before_a_key_existed_is_read_as_having_its_neutral_value(composed):
    before = OmegaConf.to_container(composed(), resolve=True)
    del before["trainer"]["threads"]
    assert fingerprint(OmegaConf.create(before)) == fingerprint(composed())
    assert decisive_keys(before) == decisive_keys(composed())
    assert decisive_keys(before)["trainer.threads"] == 1
    with_two = decisive_keys(composed("trainer.threads=2"))
    assert varied([decisive_keys(before), with_two]) == ["trainer.threads"]


def test_every_neutral_value_is_a_default_and_legal(composed):
    """Otherwise a run with default settings would have changed its name when the key was introduced."""
    config = composed()
    for path in [path for path in leaves(config) if not path.endswith("_target_")]:
        marks = [mark for mark in get_args(annotation(config, path))[1:] if isinstance(mark, Neutral)]
        for mark in marks:
            assert OmegaConf.select(config, path) == mark.value, path


def test_varied_settings_are_those_that_differ_between_runs_of_the_same_model():
    fast = {"model": "fastweights", "model.decay": 0.9, "model.hidden_size": 8, "seed": 0}
    lstm = {"model": "lstm", "model.forget_bias": 1.0, "model.hidden_size": 8, "seed": 0}
    assert varied([]) == []
    assert varied([fast]) == []
    assert varied([fast, dict(fast)]) == []
    assert varied([fast, fast | {"seed": 1}]) == ["seed"]
    assert varied([fast, lstm]) == ["model"]
    assert varied([fast, lstm, lstm | {"model.forget_bias": 4.0}]) == ["model", "model.forget_bias"]
    assert varied([fast, lstm | {"model.hidden_size": 20}, lstm]) == ["model", "model.hidden_size"]


def test_a_setting_tied_to_the_model_is_not_varied_but_one_outside_of_it_is():
    """If each model has its own size, only the model varies; if each has its own learning rate, both vary."""
    fast = {"model": "fastweights", "model.hidden_size": 8, "optimizer": "adam", "optimizer.lr": 0.1}
    lstm = {"model": "lstm", "model.hidden_size": 20, "optimizer": "adam", "optimizer.lr": 0.2}
    assert varied([fast, lstm]) == ["model", "optimizer.lr"]


def test_a_setting_follows_another():
    register_resolvers()
    config = OmegaConf.create({"units": 20, "known": "${by:${units},{20:7,50:8}}", "others": "${by:${units},{50:8},9}"})
    assert (config.known, config.others) == (7, 9)
    target = OmegaConf.create({"model": "src.models.lstm.LSTM", "bias": "${by:${model},{lstm:1},0}"})
    assert target.bias == 1
    target.model = "src.models.gru.GRU"
    assert target.bias == 0
    config.units = 50
    assert (config.known, config.others) == (8, 8)
    config.units = 100
    with pytest.raises(InterpolationResolutionError, match="known has no value for 100, only for 20, 50"):
        _ = config.known
