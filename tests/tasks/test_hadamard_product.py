import pytest
import torch

from src.specs import Output
from src.tasks.hadamard_product import HadamardProduct
from tests.tasks.averages import averages

SIZES = {"train_size": None, "test_size": 200_000}
VARIANTS = [
    {"values": "binary"},
    {"values": "uniform"},
    {"values": "uniform", "scale": 2.0},
    {"values": "binary", "num_distinct": 2},
]


def mse(task, prediction, batch):
    return averages(task.metrics(Output(prediction, torch.empty(0), None), batch))["mse"]


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("permuted", [False, True])
def test_each_target_is_the_product_of_one_feature_of_each_vector(settings, permuted):
    task = HadamardProduct(3, vector_size=6, permuted=permuted, **settings)
    batch = task.batch("train", 0, 50)
    products = batch.inputs[:, 0] * batch.inputs[:, 1]
    assert torch.equal(batch.targets.sort(1).values, products.sort(1).values)
    assert torch.equal(batch.targets, products) != permuted
    assert batch.inputs.max() <= task.scale
    if settings["values"] == "binary":
        assert set(batch.inputs.unique().tolist()) == {0.0, 1.0}
    if "num_distinct" in settings:
        for vector in batch.inputs.unbind(1):
            assert len({tuple(feature.tolist()) for feature in vector.t()}) <= 2


@pytest.mark.parametrize("settings", VARIANTS)
def test_hand_made_predictors_reach_their_floors(settings):
    task = HadamardProduct(0, vector_size=4, **settings, **SIZES)
    batch = task.batch("test", 0, 200_000)
    a, b = batch.inputs.unbind(1)
    mean = task.scale / 2
    answers = {
        "always zero": torch.zeros_like(a),
        "always the mean": torch.full_like(a, mean**2),
        "knows one of the two vectors": mean * a,
        "the best linear function of both vectors": mean * (a + b - mean),
    }
    assert set(answers) == set(task.floors)
    for description, floor in task.floors.items():
        assert mse(task, answers[description], batch) == pytest.approx(floor["mse"], rel=0.02), description


def test_the_floor_of_a_rank_is_a_line_that_ends_at_zero():
    binary, uniform = (HadamardProduct(0, vector_size=20, values=values) for values in ("binary", "uniform"))
    for rank in (1, 5, 10, 19, 20):
        assert binary.rank_floor(rank) == pytest.approx(3 / 16 * (1 - rank / 20), abs=1e-12)
        assert uniform.rank_floor(rank) == pytest.approx(7 / 144 * (1 - rank / 20), abs=1e-12)
    for task in (binary, uniform):
        assert task.rank_floor(0) == pytest.approx(task.floors["always zero"]["mse"])
        assert task.rank_floor(25) == 0


@pytest.mark.parametrize("settings", VARIANTS)
def test_the_best_answer_in_a_space_of_the_dimension_reaches_the_floor(settings):
    """It is the projection of the targets onto their principal components, which no model of the rank can beat."""
    task = HadamardProduct(0, vector_size=6, **settings, **SIZES)
    targets = task.batch("test", 0, 200_000).targets.double()
    for rank in (1, 3):
        axes = torch.linalg.eigh(targets.t() @ targets / len(targets)).eigenvectors[:, -rank:]
        least = float((targets - targets @ axes @ axes.t()).square().mean())
        assert task.rank_floor(rank) == pytest.approx(least, rel=0.02, abs=1e-9)


def test_places_and_order_follow_from_the_seed_and_each_vector_has_places_of_its_own():
    one, same, other = (HadamardProduct(seed, vector_size=12, permuted=True, num_distinct=6) for seed in (0, 0, 1))
    for name in ("places_2n", "order_n"):
        assert torch.equal(getattr(one, name), getattr(same, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))
    assert not torch.equal(*one.places_2n)


def test_more_distinct_values_than_features_are_refused():
    with pytest.raises(ValueError, match=r"^num_distinct=5: must be at most vector_size=4$"):
        HadamardProduct(0, vector_size=4, num_distinct=5)
