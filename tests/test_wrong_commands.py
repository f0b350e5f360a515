"""Each of three hundred wrong commands gets one line that names the culprit, and leaves nothing behind."""

import dataclasses
import random
import subprocess
import sys
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt

from src.config.compose import compose
from src.config.paths import CONFIGS, PROJECT
from src.config.schema import Settings, locate, signature

NUM_COMMANDS = 300
GROUPS = ("model", "task", "optimizer", "scheduler", "experiment", "debug")


def options(group):
    return sorted(
        path.relative_to(CONFIGS / group).with_suffix("").as_posix() for path in (CONFIGS / group).rglob("*.yaml")
    )


def hints(config):
    """{full key: annotation} of a configuration."""
    found = {}
    for group, hint in signature(Settings)[0].items():
        receiver = locate(config[group]._target_, group) if hint is Any else hint
        if hint is Any or dataclasses.is_dataclass(hint):
            found |= {f"{group}.{key}": of_key for key, of_key in signature(receiver)[0].items()}
        else:
            found[group] = hint
    return found


def parts(hint):
    """The kind of a value, its bounds, and whether null is legal."""
    null = False
    if get_origin(hint) is Annotated and get_origin(get_args(hint)[0]) in (Union, UnionType):
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, UnionType):
        null = NoneType in get_args(hint)
        hint = next(option for option in get_args(hint) if option is not NoneType)
    bounds = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return get_args(hint)[0] if bounds else hint, bounds, null


def wrong_values(hint):
    """Values that an annotation refuses, as they would be typed."""
    kind, bounds, null = parts(hint)
    if not null:
        yield "null"
    if get_origin(kind) is Literal:
        yield from ("nosuch", f"{str(get_args(kind)[0])[:-1]}", "[1,2]")
    elif get_origin(kind) is list:
        yield from ("5", "{a:1}")
    elif kind is str:
        yield from ("5", "[a]", "true")
    elif kind is bool:
        yield from ("1", "maybe", "0.5")
    else:
        yield from ("abc", "[1]", "{a:1}", "true", "inf", "nan")
        if kind is int:
            yield from ("1.5", "'7'")
        for bound in bounds:
            match bound:
                case Ge(least):
                    yield str(least - 1)
                case Gt(below):
                    yield str(below)
                case Le(most):
                    yield str(most + 1)
                case Lt(above):
                    yield str(above)


def misspelled(key, randomness):
    """A key with two letters swapped, or with one missing."""
    head, dot, name = key.rpartition(".")
    at = randomness.randrange(len(name) - 1)
    changed = name[:at] + name[at + 1] + name[at] + name[at + 2 :]
    if changed == name or randomness.random() < 0.3:
        changed = name[:at] + name[at + 1 :]
    return f"{head}{dot}{changed}"


@cache
def commands():
    """Pairs of overrides and names, at least one of which the message has to contain."""
    randomness = random.Random(0)
    made = []
    combinations = [(model, task) for model in options("model") for task in options("task")]
    for model, task in randomness.sample(combinations, 12):
        base = [f"model={model}", f"task={task}"]
        for key, hint in hints(compose(*base)).items():
            made += [([*base, f"{key}={value}"], [key]) for value in wrong_values(hint)]
            if "." in key:
                wrong = misspelled(key, randomness)
                made += [([*base, f"{wrong}=1"], [wrong, wrong.rpartition(".")[2]]), ([*base, f"~{key}"], [key])]
    for group in GROUPS:
        made += [([f"{group}={wrong}"], [group]) for wrong in ("nosuch", options(group)[0][:-1] or "x")]
    made += [(["--config-name=nosuch"], ["nosuch"]), (["seed=["], ["seed=["]), (["nosuch=1"], ["nosuch"])]
    return randomness.sample(made, NUM_COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(NUM_COMMANDS))
def test_a_wrong_command_gets_one_line_and_leaves_nothing(number, train, tmp_path):
    overrides, named = commands()[number]
    ended = train(*overrides)
    assert ended.status == 1, (overrides, ended.out)
    assert ended.err.endswith("\n"), ended.err
    assert len(ended.err.splitlines()) == 1, ended.err
    assert "Traceback" not in ended.err
    assert any(name in ended.err for name in named), ended.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "named"),
    [
        ("report", ["nosuch"], "nosuch"),
        ("report", ["outputs/reference"], "outputs/reference"),
        ("reproduce", ["run", "nosuch"], "nosuch"),
        ("reproduce", ["check", "nosuch"], "nosuch"),
        ("reproduce", ["restore", "ba2016/nosuch"], "ba2016/nosuch"),
        ("reproduce", ["nosuch"], "nosuch"),
        ("reproduce", ["run", "ba2016/main_job", "--budget", "small"], "--budget"),
        ("search", ["model=lstm", "--trials", "1"], "nothing to search"),
        ("search", ["optimizer.lr=interval(2,1)", "--trials", "1"], "optimizer.lr"),
        ("search", ["optimizer.lr=choice(1e-3)", "--trials", "0"], "--trials"),
        ("search", ["optimizer.lr=choice(1e-3)"], "--trials"),
        ("search", ["optimizer.lr=choice(1e-3)", "--trials", "1", "--seed", "-1"], "--seed"),
        ("search", ["optimizer.lr=interval(0,inf)", "--trials", "1"], "optimizer.lr=interval(0,inf)"),
        ("search", ["seed=range(0,0)", "--trials", "1"], "seed=range(0,0)"),
        ("reproduce", ["run", "ba2016/main_job", "nosuch=1"], "nosuch is not a setting"),
        ("theory", ["nosuch"], "nosuch"),
        ("theory", ["hopfield", "nosuch=1"], "nosuch"),
        ("benchmark", ["--models", "nosuch"], "--models"),
        ("benchmark", ["--lengths", "0"], "lengths"),
        ("upgrade_runs", ["nosuch"], "nosuch"),
        ("upgrade_runs", [], "FOLDER"),
    ],
    ids=str,
)
def test_a_script_names_a_wrong_argument(script, arguments, named, tmp_path):
    command = [sys.executable, "-W", "error", str(PROJECT / "scripts" / f"{script}.py"), *arguments]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode in (1, 2), ended.stdout
    assert "Traceback" not in ended.stderr
    assert named in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_there_are_enough_different_commands():
    made = commands()
    assert len({tuple(overrides) for overrides, _ in made}) == NUM_COMMANDS
