"""Scripts import from the clone that they are in, whichever clone is installed or contains the current folder."""

import runpy
import shutil
import subprocess
import sys
from hashlib import sha256
from types import SimpleNamespace

import pytest

from scripts import prepare_data
from src.config.errors import UserError
from src.config.paths import PROJECT
from src.data.files import File
from src.running.show_kernel import kernel_of
from tests.results.made_up import Folder

SCRIPTS = sorted(path.name for path in (PROJECT / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_puts_its_own_clone_first_before_it_imports_from_it(script):
    code = (PROJECT / "scripts" / script).read_text()
    assert 0 < code.find("\nsys.path.insert(0, str(Path(__file__).resolve().parents[1]))") < code.find("\nfrom src")


@pytest.mark.parametrize(
    "script",
    # benchmark.py imports torch, which takes time, before anything of its clone.
    [pytest.param(name, marks=pytest.mark.slow) if name == "benchmark.py" else name for name in SCRIPTS],
)
def test_a_script_imports_from_its_own_clone(script, tmp_path):
    (tmp_path / "mine" / "src").mkdir(parents=True)
    (tmp_path / "mine" / "src" / "__init__.py").write_text("raise SystemExit('this clone')")
    (tmp_path / "mine" / "scripts").mkdir()
    shutil.copy(PROJECT / "scripts" / script, tmp_path / "mine" / "scripts")
    command = [sys.executable, str(tmp_path / "mine" / "scripts" / script), "--help"]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "this clone\n")


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1"])
def test_the_time_of_a_benchmark_is_a_number_above_0(seconds, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["benchmark.py", f"--seconds={seconds}"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PROJECT / "scripts" / "benchmark.py"), run_name="__main__")
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: --seconds {float(seconds)}: must be above 0 and finite (see --help)\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--figure", "a.pdf"], "--figure a.pdf: must end in .png"),
        (["--figure", "a.png", "--json", "a.png"], "--json and --figure: a.png cannot be both"),
        (["--json", "nowhere/a.json"], "--json nowhere/a.json: there is no folder nowhere"),
        (["--figure", "src"], "--figure src: is a folder"),
    ],
)
def test_a_benchmark_refuses_files_that_it_would_not_write(arguments, says, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
    with pytest.raises(SystemExit):
        runpy.run_path(str(PROJECT / "scripts" / "benchmark.py"), run_name="__main__")
    assert capsys.readouterr().err == f"error: {says} (see --help)\n"


def test_data_that_are_prepared_are_there_and_right(tmp_path, monkeypatch, capsys):
    mine = File("set/mine.txt", 4, sha256(b"mine").hexdigest(), None, "it is mine")
    monkeypatch.setattr(prepare_data, "FILES", {"set": [mine]})

    def status(folder):
        monkeypatch.setattr(sys, "argv", ["prepare_data.py", "--data-dir", str(folder)])
        with pytest.raises(SystemExit) as ended:
            prepare_data.main()
        return ended.value.code

    assert status(tmp_path) == 0, "only its owner can put it there"
    assert "set/mine.txt: no such file, and it cannot be downloaded" in capsys.readouterr().out
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    assert status(tmp_path) == 0
    assert capsys.readouterr().out == "set/mine.txt: present, 4 bytes; it is mine\n"
    (tmp_path / "set" / "mine.txt").write_text("yours")
    assert status(tmp_path) == 1
    assert "not the published file: it has more than 4 bytes; replace it" in capsys.readouterr().out
    assert status("~nobody-here/data") == "error: ~nobody-here/data: Could not determine home directory."


@pytest.mark.parametrize("argument", ["model=gru,lstm", "seed=range(3)", "-m"])
def test_the_kernel_of_several_runs_is_refused(argument, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["kernel.py", argument])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PROJECT / "scripts" / "kernel.py"), run_name="__main__")
    assert ended.value.code == f"error: {argument}: one kernel is shown at a time; give each setting one value"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("retnet", "the kernel of RetNet is not generated from its step but written by hand"),
        ("mesanet", "there is no kernel for the step of MesaNet: "),
    ],
)
def test_a_model_without_a_generated_kernel_is_refused(model, says):
    with pytest.raises(UserError, match=f"^{says}"):
        kernel_of([f"model={model}"])


def test_curves_of_runs_that_begin_in_a_folder_of_sweeps_are_shown(tmp_path):
    sweep, links = Folder(tmp_path / "outputs" / "sweep"), tmp_path / "links"
    links.mkdir()

    def looks():
        sweep.add(seed=0)
        yield False
        sweep.add(seed=1)
        yield False
        yield True

    look = looks()
    follow = runpy.run_path(str(PROJECT / "scripts" / "curves.py"))["_follow"]
    follow(tmp_path / "outputs", links, SimpleNamespace(wait=lambda _: next(look)))
    assert len([link for link in links.iterdir() if link.readlink().parent.name == "sweep"]) == 2


def test_what_follows_the_folder_goes_to_tensorboard(tmp_path, monkeypatch, capsys):
    Folder(tmp_path / "sweep").add()
    started = []

    class Server:
        def configure(self, arguments):
            started.append(arguments[3:])

        def main(self):
            return 0

    monkeypatch.setitem(sys.modules, "tensorboard.program", SimpleNamespace(TensorBoard=Server))
    main = runpy.run_path(str(PROJECT / "scripts" / "curves.py"))["main"]
    folder, of_tensorboard = str(tmp_path / "sweep"), ["--port", "6007"]
    for arguments, status in [([folder, *of_tensorboard], 0), ([], 1), ([*of_tensorboard, folder], 1)]:
        monkeypatch.setattr("sys.argv", ["curves.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == status
    assert started == [("--port", "6007")]
    assert capsys.readouterr().err == "error: the following arguments are required: folder (see --help)\n" * 2


def test_settings_may_come_after_the_budget_of_a_reproduction(capsys):
    parse = runpy.run_path(str(PROJECT / "scripts" / "reproduce.py"))["parse"]
    assert parse(["run", "ba2016/table1", "--budget", "full", "seed=0,1"]).overrides == ["seed=0,1"]
    assert parse(["run", "ba2016/table1", "lr=1", "--budget", "full", "seed=0"]).overrides == ["lr=1", "seed=0"]
    for wrong in (["list", "seed=0"], ["run", "ba2016/table1", "--budgt=full"]):
        with pytest.raises(SystemExit):
            parse(wrong)
        assert "unrecognized arguments" in capsys.readouterr().err
