"""Every command in a block of the README runs, with fewer updates."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from src.config.paths import PROJECT, REFERENCE
from src.results.result import read_result

LEFT_OUT = {
    "python3 -m venv": "installs packages",
    "pip install": "installs packages",
    "python -m pytest": "would run this test",
    "python scripts/reproduce.py run": "shorter runs do not count; a small table is in tests/reproduction",
    "python scripts/gpu_check.py": "needs a GPU; without one, see tests/benchmarks/gpu/test_check.py",
    "python -m src.train task=language_model task.file=": "needs a text of the reader's own, see tests/tasks",
}
SHORT = ["trainer.max_updates=2", "trainer.eval_every=1"]
LESS = {
    "search.py": ["trainer.max_updates=2", "task.val_size=50", "task.test_size=50", "--trials", "2", "--workers", "1"],
    "theory.py": ["hopfield"],
}
"""Additional arguments with which a script takes less time."""


def commands():
    """The commands of all blocks, in order."""
    text = (PROJECT / "README.md").read_text()
    for block in re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in filter(None, block.replace("\\\n", " ").splitlines()):
            yield from line.replace(".venv/bin/", "").split(" && ")


PAGES = [PROJECT / "README.md", *sorted(REFERENCE.rglob("*.md")), *sorted((PROJECT / "src").rglob("*.md"))]


def anchors_of(page):
    """The anchors of the headings of a page, as GitHub generates them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), flags=re.M)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_and_image_of_a_page_exists(page):
    folder = page.parent
    if page.is_relative_to(PROJECT / "src" / "theory"):  # a part of the committed page, to which its links are relative
        folder = REFERENCE / "theory"
    elif page.is_relative_to(PROJECT / "src" / "papers"):
        folder = REFERENCE / page.relative_to(PROJECT / "src" / "papers").with_suffix("")
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    assert len(anchors_of(page)) == len(set(anchors_of(page)))
    for link in re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', text):
        path, _, anchor = "".join(link).partition("#")
        if path.startswith(("http:", "https:")):
            continue
        target = folder / path if path else page
        assert target.exists(), (page, path)
        assert not anchor or anchor in anchors_of(target), (page, anchor)


def run_of(task):
    """The folder of a finished run on a task."""
    folders = [path.parent for path in Path("outputs/runs").glob("*/result.json")]
    return next(str(path) for path in folders if f"-{task}-" in path.name and read_result(path))


@pytest.mark.slow
def test_every_command_of_the_readme_runs(train, made_up_data, monkeypatch, capsys):
    def evaluate(*arguments):
        monkeypatch.setattr("sys.argv", ["evaluate.py", *arguments])
        code = None
        try:
            runpy.run_module("src.evaluate", run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        assert not code, arguments

    def script(name, *arguments):
        words = [sys.executable, str(PROJECT / "scripts" / name), *arguments]
        if name == "curves.py":  # a server, which does not end
            shows = "from tensorboard.program import TensorBoard; TensorBoard.main = lambda self: print('shown')"
            run = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
            words[1:1] = ["-c", f"{shows}; {run}"]
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, (words, ended.stdout[-2000:], ended.stderr[-2000:])

    runs_first = sorted(commands(), key=lambda command: "src.train" not in command)
    for command in runs_first:
        if any(command.startswith(start) for start in LEFT_OUT):
            continue
        words = shlex.split(command, comments=True)
        if words[:3] == ["python", "-m", "src.train"]:
            few = ["task.val_size=20"] * any("mnist" in word for word in words)  # there are only a few made-up digits
            ended = train(*(word for word in words[3:] if not word.startswith("hydra")), *SHORT, *few)
            assert (ended.status, ended.err) == (0, ""), (command, ended)
        elif words[:3] == ["python", "-m", "src.evaluate"]:
            run = run_of("language_model" if "generate=500" in words else "associative_retrieval")
            evaluate(*(word.replace("outputs/runs/<run>", run) for word in words[3:]))
        else:
            assert words[0] == "python", command
            name = Path(words[1]).name
            if "outputs/search" in words:
                assert train("-m", "name=search", "model=irnn", "seed=0,1", *SHORT).status == 0
            script(name, *words[2:], *LESS.get(name, []))
        capsys.readouterr()
