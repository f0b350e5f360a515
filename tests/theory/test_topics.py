"""Every topic at reduced settings: its claims hold, and its figures can be drawn."""

import io
from functools import cache

import pytest
from matplotlib.text import Text

from src.theory import (
    associative_memory,
    basins,
    existence_and_uniqueness,
    fast_weights_attention,
    feedback,
    hebbian_learning,
    hopfield,
    loss_cliff,
    lyapunov,
    modern_hopfield,
    nprnn_portraits,
    stability,
    write_rules,
)
from src.theory.run import find_topics, headline, hint_of, settings_of, text_of

REDUCED = {
    "linear_associator": (associative_memory, {"key_size": 120, "value_size": 80, "draws": 8, "crosstalk_pairs": 40}),
    "hebbian_growth": (hebbian_learning, {}),
    "fast_weights_attention": (fast_weights_attention, {"num_steps": 16}),
    "feedback_regimes": (feedback, {}),
    "hopfield_energy": (hopfield, {"num_units": 60, "num_patterns": 5, "starts": 8}),
    "hopfield_basins": (hopfield, {"num_units": 300, "draws": 2}),
    "modern_hopfield": (modern_hopfield, {"recalled": 8}),
    "existence_and_uniqueness": (existence_and_uniqueness, {}),
    "stability": (stability, {}),
    "lyapunov_functions": (lyapunov, {"starts": 100}),
    "basins": (basins, {"resolution": 80}),
    "nprnn_portraits": (nprnn_portraits, {"matrices": 20}),
    "loss_cliff": (loss_cliff, {"resolution": 2001}),
    "write_rules": (write_rules, {"draws": 60, "key_sizes": (16, 32)}),
}
SHARED = ("feedback_regimes", "nprnn_portraits")
"""Figures whose panels share axis labels, at the left and at the bottom only."""
DRAWN_BY_DEFAULT = ("hopfield_energy", "feedback_regimes", "write_rules")
NAMED = (("write_rules", 2),)
"""Panels, by figure and number, whose x axis shows names instead of numbers."""


@cache
def computed(name):
    module, settings = REDUCED[name]
    (demonstration,) = (one for one in module.DEMONSTRATIONS if one.name == name)
    return demonstration, demonstration.run(**settings)


@pytest.mark.parametrize("name", REDUCED)
def test_every_claim_holds_and_says_why(name):
    _, result = computed(name)
    assert [claim for claim in result.claims if not claim.holds] == []
    assert all(claim.statement and claim.source and claim.tolerance for claim in result.claims)
    assert len({claim.statement for claim in result.claims}) == len(result.claims)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in DRAWN_BY_DEFAULT else [pytest.mark.slow]) for name in REDUCED]
)
def test_the_figure_is_drawn_with_labels(name):
    demonstration, result = computed(name)
    figure = demonstration.draw(result)
    for number, axes in enumerate(figure.axes):
        inner, place = name in SHARED, axes.get_subplotspec()
        named = (name, number) in NAMED or axes.get_label() == "<colorbar>"
        assert axes.get_xlabel() or named or (inner and not place.is_last_row())
        assert axes.get_ylabel() or (inner and not place.is_first_col())
    figure.draw_without_rendering()


def test_a_figure_can_be_written():
    demonstration, result = computed("hebbian_growth")
    buffer = io.BytesIO()
    demonstration.draw(result).savefig(buffer, dpi=30, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_every_topic_has_a_headline_and_a_text_and_no_two_figures_share_a_name():
    topics = find_topics()
    assert {"associative_memory", "hopfield", "hopfield_capacity", "latching", "chaos"} <= set(topics)
    for topic in topics:
        assert headline(topic).endswith(".")
        assert text_of(topic).startswith("# ")
    names = [one.name for group in topics.values() for one in group]
    assert len(set(names)) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("demonstration", "name", "least"),
    [
        pytest.param(demonstration, name, hint_of(parameter).__metadata__[0].ge, id=f"{demonstration.name}-{name}")
        for group in find_topics().values()
        for demonstration in group
        for name, parameter in settings_of(demonstration).items()
        if isinstance(parameter.default, int) and name != "seed"
    ],
)
def test_every_setting_may_be_as_small_as_it_says(demonstration, name, least):
    if (demonstration.name, name) == ("gradient_norms_at_initialization", "num_units"):
        least = 2  # the A-LSTM has complex units, so the number must be even
    result = demonstration.run(**{name: least})
    demonstration.draw(result).draw_without_rendering()


@pytest.mark.parametrize(
    ("topic", "name", "settings", "numbers_by_default"),
    [
        ("bptt", "update_rules_as_printed", {"num_iterations": 130}, ("120",)),
        ("bptt", "gradients_as_printed", {"num_steps": 6}, ("7 terms", "seven")),
        ("feedback", "feedback_regimes", {"repetitions": 5000}, ("20,000 ",)),
        ("gradient_flow", "powers_of_a_matrix", {"num_powers": 240, "coupling": 1.5}, ("300", "150", "(0.9 2")),
        ("loss_cliff", "loss_cliff", {"num_steps": 40, "resolution": 2001}, ("50 steps",)),
    ],
)
def test_texts_follow_the_settings(topic, name, settings, numbers_by_default):
    (demonstration,) = (one for one in find_topics()[topic] if one.name == name)

    result = demonstration.run(**settings)
    of_figure = [part.get_text() for part in demonstration.draw(result).findobj(Text)]
    text = " ".join([*(f"{claim.statement} {claim.tolerance}" for claim in result.claims), *of_figure])
    assert [number for number in numbers_by_default if number in text] == []
