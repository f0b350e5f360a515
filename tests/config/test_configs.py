"""The files in configs match the code that receives their settings, and the README matches both."""

import importlib
import inspect
import re
import shlex

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.config.paths import CONFIGS, PROJECT
from src.config.schema import RunSettings, Settings, TrainerSettings, locate, signature
from src.config.settings import short_name
from src.models.base import Core
from src.running.build import check
from src.tasks.base import Task

FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "local")
OPTIONS = [path for path in FILES if path.parent != CONFIGS]
CONTRACTS = {"model": ("src.models", Core), "task": ("src.tasks", Task)}
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
OVERRIDING = ("debug", "experiment")
"""Groups whose files override settings that other files explain."""


def group_and_name(file):
    """The group and name of a file: "model" and "ba2016/irnn" for configs/model/ba2016/irnn.yaml."""
    group, *name = file.relative_to(CONFIGS).with_suffix("").parts
    return group, "/".join(name)


def options():
    """Every option. Most belong to papers; of these, all but the first in each folder are marked slow."""
    firsts = {file.parent: file for file in reversed(OPTIONS)}
    for file in OPTIONS:
        slow = "/" in group_and_name(file)[1] and file != firsts[file.parent]
        yield pytest.param(file, id="/".join(group_and_name(file)), marks=[pytest.mark.slow] * slow)


def node(file):
    """The settings that a file passes to its receiver."""
    content = OmegaConf.load(file)
    return content.get(file.parent.name, content)


def concrete(package, contract):
    """The modules of a package that define a subclass of the contract that can be chosen by itself.

    All settings of such a class have defaults, unlike those of base classes and of a stack of other models.
    """
    for path in (PROJECT / package.replace(".", "/")).glob("*.py"):
        module = importlib.import_module(f"{package}.{path.stem}")
        for found in vars(module).values():
            if not inspect.isclass(found) or not issubclass(found, contract) or found.__module__ != module.__name__:
                continue
            parameters = inspect.signature(found).parameters.values()
            settings = [parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
            if settings and all(setting.default is not setting.empty for setting in settings):
                yield path.stem


@pytest.mark.parametrize("file", list(options()))
def test_every_option_composes_and_passes_the_check(file, composed):
    group, name = group_and_name(file)
    config = composed(f"{group}={name}")
    check(config)
    if group not in OVERRIDING:
        assert short_name(config[group]._target_) == file.stem


@pytest.mark.parametrize("group", CONTRACTS)
def test_a_model_or_task_has_one_spelling_in_code_and_configuration(group):
    package, contract = CONTRACTS[group]
    files = sorted((CONFIGS / group).glob("*.yaml"))
    assert sorted(concrete(package, contract)) == [file.stem for file in files]
    for file in files:
        module, _, name = str(node(file)["_target_"]).rpartition(".")
        assert module == f"{package}.{file.stem}"
        assert name.lower() == file.stem.replace("_", "")


@pytest.mark.parametrize("group", ["optimizer", "scheduler"])
def test_an_optimizer_or_schedule_is_the_function_of_its_name(group):
    module = importlib.import_module(f"src.training.{group}s")
    functions = [
        name for name, found in inspect.getmembers(module, inspect.isfunction) if found.__module__ == module.__name__
    ]
    assert sorted(functions) == [file.stem for file in sorted((CONFIGS / group).glob("*.yaml"))]


@pytest.mark.parametrize("group", ["model", "task", "optimizer", "scheduler"])
def test_a_file_sets_every_key_of_its_receiver_and_no_other(group):
    for file in sorted((CONFIGS / group).glob("*.yaml")):
        settings = node(file)
        keys, _ = signature(locate(settings["_target_"], group))
        assert set(settings) - {"_target_"} == set(keys), file


def test_the_main_file_sets_every_key_of_the_runner_and_no_other(composed):
    main = OmegaConf.load(CONFIGS / "train.yaml")
    assert set(composed()) == set(signature(Settings)[0])
    assert set(main.trainer) == set(signature(TrainerSettings)[0])
    assert set(main.run) == set(signature(RunSettings)[0])
    assert set(main.network) - {"_target_"} == set(signature(locate(main.network["_target_"], "network"))[0])


@each_file
def test_every_key_is_explained_on_the_line_above(file):
    """Exceptions: groups, `_target_`, and files whose keys other files explain; these begin with their purpose."""
    lines = file.read_text().partition("\nhydra:")[0].splitlines()
    if group_and_name(file)[0] in OVERRIDING:
        assert lines.pop(0) == "# @package _global_"
    if group_and_name(file)[0] in OVERRIDING or "@_here_" in file.read_text():
        assert re.fullmatch(r"# \S.*", lines[0])
        return
    explained = False
    for above, line in zip(["", *lines], lines, strict=False):
        key = re.match(r"\s*(\w+):\s*(\S.*)?$", line)
        if key and key[1] != "_target_" and key[2] is not None:
            explained = True
            assert re.match(r"\s*# \S", above), f"{file}: nothing above {line!r}"
    assert explained or set(node(file)) == {"_target_"}


@pytest.mark.parametrize("name", [file.stem for file in sorted((CONFIGS / "optimizer").glob("*.yaml"))])
@pytest.mark.parametrize("schedule", [file.stem for file in sorted((CONFIGS / "scheduler").glob("*.yaml"))])
def test_every_optimizer_lowers_a_loss_under_every_schedule(name, schedule):
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = instantiate(OmegaConf.load(CONFIGS / "optimizer" / f"{name}.yaml"), [weight], _convert_="all")
    scheduler = instantiate(OmegaConf.load(CONFIGS / "scheduler" / f"{schedule}.yaml"), optimizer, 20)
    losses = []
    for _ in range(20):
        loss = weight.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("name", "settings", "theirs"),
    [
        ("adam", {"lr": 0.1, "betas": [0.8, 0.99], "eps": 1e-3, "weight_decay": 0.1}, torch.optim.AdamW),
        ("rmsprop", {"lr": 0.1, "alpha": 0.8, "eps": 1e-3, "momentum": 0.3, "weight_decay": 0.1}, torch.optim.RMSprop),
        ("sgd", {"lr": 0.1, "momentum": 0.3, "nesterov": True, "weight_decay": 0.1}, torch.optim.SGD),
    ],
)
def test_an_optimizer_is_torchs_own_with_every_setting_in_its_place(name, settings, theirs):
    mine, other = (torch.nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64)) for _ in range(2))
    target = f"src.training.optimizers.{name}"
    optimizers = [
        instantiate({"_target_": target, **settings}, [mine], _convert_="all"),
        theirs([other], **settings),
    ]
    for _ in range(10):
        for weight, optimizer in zip([mine, other], optimizers, strict=True):
            weight.grad = torch.sin(3 * weight.detach())
            optimizer.step()
    torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(mine, torch.linspace(-1, 1, 7, dtype=torch.float64))


def rates(schedule, max_updates, lr=0.1, **settings):
    """The learning rate of every update, and the rate after the last update."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr)
    scheduler = instantiate({"_target_": f"src.training.schedulers.{schedule}", **settings}, optimizer, max_updates)
    values = []
    for _ in range(max_updates):
        values.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return np.array([*values, scheduler.get_last_lr()[0]])


def test_the_constant_schedule_stays():
    assert set(rates("constant", 10)) == {0.1}


def test_the_cosine_falls_monotonically_from_the_first_to_the_final_rate():
    values = rates("cosine", 10, final_lr=0.02)
    np.testing.assert_allclose(values, 0.02 + 0.08 * (1 + np.cos(np.pi * np.arange(11) / 10)) / 2, rtol=1e-9)
    assert values[0] == 0.1
    np.testing.assert_allclose(values[-1], 0.02, rtol=1e-12)
    assert (np.diff(values) < 0).all()


def test_the_step_multiplies_by_the_factor_every_so_many_updates():
    np.testing.assert_allclose(rates("step", 7, every=3, factor=0.5), [0.1] * 3 + [0.05] * 3 + [0.025] * 2, rtol=1e-12)


def test_the_exponential_falls_by_the_factor_over_so_many_updates():
    values = rates("exponential", 6, every=3, factor=0.5)
    np.testing.assert_allclose(values, 0.1 * 0.5 ** (np.arange(7) / 3), rtol=1e-12)


@pytest.mark.parametrize("group", ["model", "task", "optimizer", "scheduler"])
def test_the_readme_names_every_choice(group):
    readme = (PROJECT / "README.md").read_text()
    (row,) = re.findall(rf"^\| \[`{group}`\]\(configs/{group}\) \| (.*) \|$", readme, flags=re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", row)) == sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))


def readme_commands():
    """The arguments of every training command in the README's fenced blocks, except commands with <placeholders>."""
    readme = PROJECT / "README.md"
    text = readme.read_text() if readme.exists() else ""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"\s*(?:\$ )?(?:\w+=\S+ )*(?:python -m src\.train|fastweights)\b(.*)", line)
            if found and "<" not in line:
                yield found[1]


def test_the_readme_shows_commands():
    assert list(readme_commands())


@pytest.mark.parametrize("command", list(readme_commands()))
def test_every_command_of_the_readme_is_a_legal_one(command, train, made_up_data, monkeypatch):
    """Commands are checked without launchers and without training; see tests/sweeping for both."""
    monkeypatch.setattr("src.running.lifecycle.run", lambda config: 0.0)
    monkeypatch.setattr("src.sweeping.sweep.Sweep.launch", lambda *_, **__: [])
    monkeypatch.setattr("src.sweeping.sweep.end_sweep", lambda folder, configurations: ["finished"])
    overrides = [word for word in shlex.split(command, comments=True) if not word.startswith("hydra")]
    if any("mnist" in override for override in overrides):
        overrides.append("task.val_size=20")  # there are only a few made-up digits
    ended = train(*overrides)
    assert (ended.status, ended.err) == (0, "")
