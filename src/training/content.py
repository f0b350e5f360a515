"""The content of a checkpoint; its shapes and types are checked when it is read back, as with any other file."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

from annotated_types import Ge
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from torch import Tensor
from typing_extensions import TypedDict

from src.config.errors import what_is_wrong
from src.models.sequence import SequenceModel


class Outcome(NamedTuple):
    """How a run ended, with the metrics of the selected weights if there are any."""

    status: Literal["finished", "diverged", "interrupted"]
    reason: str
    metrics: dict[str, float]


class Selected(NamedTuple):
    """The weights that were best on the validation set, the earliest in a tie."""

    update: int
    metrics: dict[str, float]
    weights: dict[str, Tensor]


Count = Annotated[int, Ge(0)]
OTHER_DATA = "the data files of its task have changed since it was trained"


@with_config(ConfigDict(arbitrary_types_allowed=True, extra="allow"))
class Content(TypedDict):
    """The content of a checkpoint: what `TrainState.to_checkpoint` returns, and the fingerprint and data of its run."""

    fingerprint: str
    data: NotRequired[str]
    update: Count
    seconds: Annotated[float, Ge(0)]
    sum_of_norms: Tensor
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    rng: Tensor
    device_rng: list[Tensor]
    state: list[Tensor] | None
    selected: Selected | None
    evaluations_since_selected: Count
    outcome: Outcome | None


_CONTENT = TypeAdapter(Content)


def as_content(loaded: Any) -> Content:
    """Check that what was loaded from a file is the content of a checkpoint, and return it.

    Raises:
        ValueError: it is something else.
    """
    try:
        content = _CONTENT.validate_python(loaded, strict=True)
    except ValidationError as error:
        raise ValueError(what_is_wrong(error)) from None
    content["sum_of_norms"] = content["sum_of_norms"].double()  # it was in float32 in earlier versions
    return content


def is_of_other_data(content: Content, digest: str) -> bool:
    """Whether a checkpoint was written on data with another digest; False if either digest is unknown."""
    return bool(digest and content.get("data")) and content["data"] != digest


def check_like(found: Any, wanted: Any, path: str) -> None:
    """Raise a ValueError unless `found` has the shapes, types and keys of `wanted`."""
    match wanted:
        case Tensor():
            fits = isinstance(found, Tensor) and (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        case Mapping():
            fits = isinstance(found, Mapping) and found.keys() >= wanted.keys()
        case list():
            fits = isinstance(found, list) and len(found) == len(wanted)
        case float():  # a setting may be stored as an integer
            fits = isinstance(found, float | int)
        case _:
            fits = isinstance(found, type(wanted))
    if not fits:
        raise ValueError(f"{path} does not fit this run")
    if isinstance(wanted, Mapping | list):
        for key in wanted if isinstance(wanted, Mapping) else range(len(wanted)):
            check_like(found[key], wanted[key], f"{path}.{key}")


def check_weights(model: SequenceModel, weights: Mapping[str, Tensor], path: str) -> None:
    """Raise a ValueError unless these are exactly the weights of a model."""
    own = model.state_dict()
    check_like(weights, own, path)
    check_like(own, dict(weights), path)
