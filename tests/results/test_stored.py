"""Files of runs may be damaged, and may come from anyone."""

import json
import logging
import os
import time

import pytest

from src.config.errors import UserError
from src.results.manifest import read_manifest
from src.results.result import read_result
from src.results.runs import load_runs, search_settings
from src.results.stored import read_yaml

HUGE = "9" * 5000
DAMAGED = {
    "empty": (b"", "invalid JSON: EOF while parsing a value"),
    "cut off": (b'{"status": "fini', "invalid JSON: EOF while parsing a string"),
    "an empty object": (b"{}", "status: field required"),
    "a list": (b"[]", "input should be an object"),
    "a number": (b"5", "input should be an object"),
    "null": (b"null", "input should be an object"),
    "not UTF-8": (b'{"status": "\xff"}', "invalid JSON: invalid unicode code point"),
    "a huge integer": (b'{"status": %s}' % HUGE.encode(), "invalid JSON: number out of range"),
    "deep": (b"[" * 100_000, "invalid JSON: recursion limit exceeded"),
    "deep objects": (b'{"status":' * 1000, "invalid JSON: recursion limit exceeded"),
}


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(("content", "says"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_result_is_named_once_and_counts_as_missing(content, says, folder, caplog):
    whole, damaged = folder.add(seed=0, val=0.25), folder.add(seed=1)
    folder.expect_all()
    path = folder.path / damaged / "result.json"
    path.write_bytes(content)
    for _ in range(3):
        runs = load_runs(folder.path)
    assert [(run.name, run.status, run.reason) for run in runs] == [
        (whole, "finished", ""),
        (damaged, "missing", "result.json is damaged"),
    ]
    (warning,) = warnings(caplog)
    assert warning.startswith(f"{path} is damaged and counts as missing: {says}")


WRONG = {
    "a status of another program": ({"status": "done"}, "status: input should be 'finished', 'diverged', 'failed' or"),
    "a reason that is no text": ({"reason": ["x"]}, "reason: input should be a valid string"),
    "a metric that is no number": ({"metrics": {"val/error": "0.5"}}, "metrics.val/error: input should be a valid n"),
    "metrics in a list": ({"metrics": []}, "metrics: input should be an object"),
    "no configuration": ({"config": 5}, "config: input should be an object"),
    "a group that is none": ({"config": {"trainer": 5}}, "config.trainer: input should be an object"),
    "a search that is none": ({"config": {"search": {"grid": "x"}}}, "config.search.grid: input should be a valid arr"),
    "an integer for no machine": ({"config": {"seed": 10**30}}, "config: an integer outside the 64-bit range"),
    "a configuration to evaluate": ({"config": {"name": "${oc.env:HOME}"}}, "config: '${oc.env:HOME}' would be eval"),
    "floors that are none": ({"floors": {"chance": 1}}, "floors.chance: input should be an object"),
    "negative updates": ({"updates": -1}, "updates: input should be greater than or equal to 0"),
    "no seconds": ({"seconds": None}, "seconds: input should be a valid number"),
}


@pytest.mark.parametrize(("entries", "says"), WRONG.values(), ids=WRONG)
def test_a_result_with_something_else_in_it_counts_as_missing(entries, says, folder, caplog):
    path = folder.path / folder.add() / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    assert read_result(path.parent) is None
    (warning,) = warnings(caplog)
    assert warning.startswith(f"{path} is damaged and counts as missing: {says}")


def test_a_result_of_an_ended_run_has_its_numbers(folder, caplog):
    name = folder.add()
    folder.change(name, seconds=None, updates=None)
    assert read_result(folder.path / name) is None
    assert warnings(caplog)[0].endswith(": finished without updates, seconds")
    folder.change(name, status="interrupted")
    assert read_result(folder.path / name)["status"] == "interrupted"


def test_what_is_no_file_is_not_opened(folder, caplog):
    names = [folder.add(seed=seed) for seed in range(3)]
    one, two, three = (folder.path / name / "result.json" for name in names)
    for path in (one, two, three):
        path.unlink()
    one.mkdir()
    os.mkfifo(two)  # opening it would block forever
    three.symlink_to("nowhere")
    assert [read_result(path.parent) for path in (one, two, three)] == [None] * 3
    assert warnings(caplog) == [f"{path} cannot be read and counts as missing: not a file" for path in (one, two)]


@pytest.mark.parametrize(("content", "says"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_manifest_is_named_and_counts_as_missing(content, says, folder, caplog):
    folder.add()
    folder.expect_all()
    whole = search_settings(folder.path, [])
    (folder.path / "sweep.json").write_bytes(content)
    assert read_manifest(folder.path) is None
    assert search_settings(folder.path, load_runs(folder.path)) == whole
    (warning,) = warnings(caplog)
    start = f"{folder.path / 'sweep.json'} is damaged and counts as missing: "
    assert warning.startswith(start + (says if "JSON" in says else ""))
    folder.expect_all()
    assert len(read_manifest(folder.path).runs) == 1


@pytest.mark.parametrize("name", ["/etc", "../other", "a/b", "", ".", "..", ".hidden", "a\0b"])
def test_a_manifest_names_only_folders_beside_it(name, folder, caplog):
    folder.add()
    folder.expect_all()
    path = folder.path / "sweep.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"runs": {name: {}}}))
    assert read_manifest(folder.path) is None
    assert len(warnings(caplog)) == 1


ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
REFERENCES = "a0: xxxxxxxxxx\n" + "".join(f"a{n}: ${{a{n - 1}}}${{a{n - 1}}}\n" for n in range(1, 60))
CONFIGURATIONS = {
    "aliases": (ALIASES, "*a0 is an alias, which is not allowed in a stored configuration"),
    "aliases in a text": (json.dumps(ALIASES), "not a group of settings"),
    "references": (REFERENCES, "more than 20 interpolations"),
    "a circle": ("a: ${b}\nb: ${a}", ""),
    "itself": ("a: {b: '${a}', c: '${a}'}", ""),
    "deep": ("[" * 60_000, "nested more than 20 levels deep"),
    "deep groups": ("\n".join(" " * n + "a:" for n in range(300)), "nested more than 20 levels deep"),
    "large": ("a: " + "x" * 70_000, "larger than 65536 bytes"),
    "a list": ("[1, 2]", "input should be a valid dictionary"),
    "a number": ("5", "not a group of settings"),
    "not UTF-8": (b"name: \xff", ""),
    "a huge integer": (f"seed: {HUGE}", ""),
    "a large integer": (f"seed: {'9' * 400}", "an integer outside the 64-bit range"),
    "the environment": (
        "name: ${oc.env:HOME}",
        "name would run a resolver; legal: ${by:}, ${units_for:} and keys of settings",
    ),
    "the environment by a detour": ("a: env\nname: '${oc.${a}:HOME}'", ""),
    "the environment, later": (r"name: '\${oc.env:HOME}'", "'${oc.env:HOME}' would be evaluated"),
    "an object": ("name: !!python/object/apply:os.system ['exit 1']", ""),
    "a path": ("name: !!python/object/apply:pathlib.Path [a]", "a value of type PosixPath"),
    "a group that is none": ("model: 5", "model: input should be a valid dictionary"),
    "numbers as keys": ("model: {1: 2}", "model.1.[key]: input should be a valid string"),
    "two documents": ("a: 1\n---\nb: 2", ""),
}


@pytest.mark.parametrize(("content", "says"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_a_configuration_that_is_none_is_named_at_once(content, says, folder, monkeypatch, caplog):
    monkeypatch.setenv("HOME", "secret")
    path = folder.path / folder.add(status=None) / ".hydra" / "config.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    started = time.process_time()
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert time.process_time() - started < 5
    assert str(error.value).startswith(f"{path}: {says}")
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)
    (run,) = load_runs(folder.path)
    assert run.settings == {}
    assert warnings(caplog) == [f"{error.value}; it counts as missing"]
