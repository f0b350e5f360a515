"""Views of views."""

import pytest
import torch

from src.ops.generated.values import Value, View, contiguous, whole

VALUE = Value("input", "", [], (4, 6, 5), (4, 6, 5), contiguous((4, 6, 5)))
NUMBERS = torch.arange(120).view(4, 6, 5)


def shown(view):
    """The numbers that a view shows."""
    return NUMBERS.flatten().as_strided(view.shape, view.strides, view.offset)


def seen(look, view):
    """The view that results from a function of tensors, applied to a view."""
    return view.like(look(view.meta()))


INNER = {
    "whole": lambda x: x,
    "sliced": lambda x: x[1:3, 2:, ::2],
    "permuted": lambda x: x.permute(2, 0, 1)[1:],
    "repeated": lambda x: x[:, :1].expand(4, 3, 5),
    "one row": lambda x: x[2:3, 1:4],
}
OUTER = {
    "whole": lambda x: x,
    "sliced": lambda x: x[..., 1:, 1:],
    "permuted": lambda x: x.permute(2, 1, 0)[:2],
    "repeated": lambda x: x[:, :, None].expand(-1, -1, 7, -1),
    "selected": lambda x: x.select(1, 1),
    "grown": lambda x: x.unsqueeze(0).unsqueeze(-1),
}


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", INNER)
def test_a_view_of_a_copy_is_a_view_of_the_original(inner, outer):
    original = seen(INNER[inner], whole(VALUE))
    copy = Value("map", "copy", [original], original.shape, original.shape, contiguous(original.shape))
    view = seen(OUTER[outer], whole(copy))
    through = view.through(original)
    assert through is not None
    assert through.value is VALUE
    assert torch.equal(shown(through), OUTER[outer](INNER[inner](NUMBERS)))


@pytest.mark.parametrize(
    "look", [lambda x: x.flatten(), lambda x: x.flatten()[3:9], lambda x: x.view(5, 12), lambda x: x.flatten()[::5]]
)
def test_a_view_that_leaves_the_rows_of_the_original_is_none_of_it(look):
    original = seen(lambda x: x[:, :3, :4].permute(1, 0, 2)[:, :, :4], whole(VALUE))
    copy = Value("map", "copy", [original], original.shape, original.shape, contiguous(original.shape))
    view = seen(look, View(copy, 0, (20, 5, 1), (3, 4, 5)))
    assert view.through(original) is None
