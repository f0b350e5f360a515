"""Figures of what a model remembers extend to the end of each sequence, whatever its symbols are."""

import io

import torch

from src.reports.figures import attention_figure, memory_figure
from src.running.build import build_model, build_task
from src.running.examples import attention_of_last_steps, memory_at
from tests.running.test_lifecycle import only_run, result

MATH = ["$x_$", "$", r"\frac{", "^"]


def test_symbols_are_not_taken_for_mathematics():
    figures = attention_figure(torch.rand(2, 3), [MATH, MATH]), memory_figure(torch.rand(2, 4, 4), MATH[:2])
    for figure in figures:
        figure.savefig(io.BytesIO())
    shown = {text.get_text() for text in figures[0].axes[0].texts}
    assert shown == set(MATH[:-1])


def test_a_short_sequence_is_shown_up_to_its_end(composed):
    config = composed("model=fastweights", "model.hidden_size=8", "task=template", "task.variable_length=true")
    task = build_task(config)
    model = build_model(config, task)
    batch = task.batch("val", 0, 6)
    ends = batch.lengths.tolist()
    assert len(set(ends)) > 1
    projected = model.project(batch.inputs).vectors
    attention, memory = attention_of_last_steps(model.core, projected, ends), memory_at(model.core, projected, ends)
    for row, end in enumerate(ends):
        alone = model.project(batch.inputs[row : row + 1, :end]).vectors
        torch.testing.assert_close(attention[row, : end - 1], model.core.attention(alone)[0])
        assert not attention[row, end - 1 :].any()
        torch.testing.assert_close(memory[row], model.core.memory(alone)[0])


def test_sequences_of_one_step_have_no_attention_to_show(composed):
    config = composed("model=fastweights", "model.hidden_size=8")
    core = build_model(config, build_task(config)).core
    assert attention_of_last_steps(core, torch.rand(2, 1, 8), [1, 1]) is None
    assert memory_at(core, torch.rand(2, 1, 8), [1, 1]).shape == (2, 8, 8)


def test_a_result_stands_without_pictures_of_it(train, tiny, monkeypatch):
    def broken(*_):
        raise ValueError("no font")

    monkeypatch.setattr("src.running.lifecycle.show_examples", broken)
    ended = train(*tiny)
    assert ended.status == 0
    assert "no examples in TensorBoard: ValueError: no font" in ended.out + ended.err
    stored = result(only_run())
    assert stored["status"] == "finished"
    assert "test/error" in stored["metrics"]


def test_a_text_with_signs_of_mathematics_is_learned(train, tiny, tmp_path):
    (tmp_path / "own.txt").write_text("$x_$ and the $ \\frac $ of cost $5_ \n" * 100)
    small = [item for item in tiny if not item.startswith("task")]
    ended = train(*small, "task=language_model", "task.file=own.txt", "model=fastweights", "task.window=8")
    assert ended.status == 0
    assert "no examples" not in ended.out + ended.err
