"""Drawings of faces, a stand-in for photographs that may not be distributed.

Shapes: N faces of S x S pixels, K people, E expressions.
"""

from typing import Any

import torch
from torch import Tensor

EXPRESSIONS = ("neutral", "smile", "surprise", "squint", "disgust", "scream")
"""The expressions of Multi-PIE (Gross et al., 2010) used in section 4.3 of Ba et al. (2016)."""
SHARES = (0.4, 0.2, 0.1, 0.1, 0.1, 0.1)
"""The probability of each expression."""
VIEWS = (-15.0, 0.0, 15.0)
"""Angles by which a head is turned, in degrees."""
SIDE = 48
SHARPNESS = 60.0
"""The sharpness of edges: the side of the square is 2, so edges are about a pixel wide."""

GEOMETRY = {
    "width": (0.62, 0.05), "height": (0.88, 0.05), "jaw": (0.28, 0.10), "eye_gap": (0.28, 0.03),
    "eye_y": (-0.15, 0.03), "eye_width": (0.13, 0.015), "eye_height": (0.065, 0.010), "iris": (0.045, 0.006),
    "brow_y": (0.16, 0.018), "brow_tilt": (0.0, 0.10), "brow_width": (0.025, 0.007), "nose_y": (0.18, 0.03),
    "nose_width": (0.09, 0.015), "mouth_y": (0.46, 0.03), "mouth_width": (0.23, 0.03), "lips": (0.035, 0.008),
    "corners": (0.0, 0.015), "skin": (0.65, 0.09), "hair": (0.2, 0.12), "hairline": (-0.58, 0.06),
}  # fmt: skip
"""Mean and standard deviation of everything that differs between people, in half sides and in brightness."""
CHANGES = {
    #            corners, mouth width, opening, eyes, brows, frown, wrinkles
    "neutral": (0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.0),
    "smile": (0.10, 0.09, 0.05, -0.20, 0.00, 0.00, 0.4),
    "surprise": (0.00, -0.06, 0.15, 0.60, 0.11, 0.00, 0.0),
    "squint": (0.01, 0.00, 0.00, -0.75, -0.05, 0.20, 0.2),
    "disgust": (-0.06, -0.02, 0.03, -0.40, -0.05, 0.40, 1.2),
    "scream": (-0.02, 0.04, 0.24, -0.35, 0.03, 0.15, 0.6),
}
"""The changes that an expression makes at full strength; `eyes` is a fraction of their height."""


def people(num_people: int, generator: torch.Generator) -> Tensor:
    """The geometry of K people, [K, numbers]: independent normal numbers, clipped at 2.5 standard deviations."""
    mean, deviation = torch.tensor(list(GEOMETRY.values())).unbind(1)
    return mean + deviation * torch.randn(num_people, len(GEOMETRY), generator=generator).clamp(-2.5, 2.5)


def draw(
    geometry_NG: Tensor, expressions_N: Tensor, noise: float, generator: torch.Generator, chunk: int = 500
) -> Tensor:
    """A picture of each person with an expression, [N, S, S], as bytes.

    View, light, background, the strength of the expression, a shift by up to a pixel and the noise are random.
    """
    chunks = zip(geometry_NG.split(chunk), expressions_N.split(chunk), strict=True)
    return torch.cat([_draw(geometry, expressions, noise, generator) for geometry, expressions in chunks])


def _draw(geometry_NG: Tensor, expressions_N: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    num = len(geometry_NG)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(num, 1, 1, generator=generator)

    g: dict[str, Any] = dict(zip(GEOMETRY, geometry_NG[:, :, None, None].unbind(1), strict=True))
    strength = between(0.6, 1.2)
    changes = torch.tensor([CHANGES[name] for name in EXPRESSIONS])[expressions_N]
    corners, wider, opening, eyes, brows, frown, wrinkles = (strength * c for c in changes[:, :, None, None].unbind(1))
    yaw = torch.tensor(VIEWS)[torch.randint(len(VIEWS), (num, 1, 1), generator=generator)].deg2rad()
    at = torch.linspace(-1, 1, SIDE)
    y, x = torch.meshgrid(at, at, indexing="ij")
    x, y = x + between(-0.04, 0.04), y + between(-0.04, 0.04)

    def turned(across: Tensor | float, depth: float = 0.75) -> Tensor:
        """The x at which a point of the face is seen; the point midway between the eyes stays in place."""
        return across * torch.cos(yaw) + (depth - 0.75) * torch.sin(yaw)

    narrow = torch.cos(yaw)
    middle = turned(0.0, 0.35)  # middle of the head, which is behind the eyes
    jaw = g["width"] * (1 - g["jaw"] * y.clamp_min(0))
    inside_x, inside_y = (x - middle) / jaw, (y + 0.02) / g["height"]
    radius = (inside_x**2 + inside_y**2).sqrt()
    light = between(-0.9, 0.9) * inside_x - between(0.0, 0.5) * inside_y
    shade = 1 + 0.35 * light + 0.25 * ((1 - radius**2).clamp_min(0).sqrt() - 0.6)
    image = between(0.2, 0.8) + torch.zeros_like(radius)
    image = torch.lerp(image, g["skin"] * shade, _soft((1 - radius) * g["width"]))
    hairline = g["hairline"] + 0.25 * inside_x**2
    image = torch.lerp(image, g["hair"] * shade, _soft((1.1 - radius) * g["width"]) * _soft(hairline - y))

    open_eye = (g["eye_height"] * (1 + eyes)).clamp_min(0.008)
    for side in (-1, 1):
        from_eye = (x - turned(side * g["eye_gap"])) / narrow
        eye = _ellipse(from_eye, y - g["eye_y"], g["eye_width"], open_eye)
        image = torch.lerp(image, 0.9 * shade, eye)
        image = torch.lerp(image, torch.tensor(0.12), eye * _ellipse(from_eye, y - g["eye_y"], g["iris"], g["iris"]))
        lid = g["eye_y"] - open_eye * (1 - (from_eye / g["eye_width"]) ** 2).clamp_min(0)
        beside = _soft(g["eye_width"] - from_eye.abs())
        image = image * (1 - 0.6 * beside * _line(y - lid, 0.012))
        tilt = (g["brow_tilt"] - frown) * side * from_eye
        brow = g["eye_y"] - g["brow_y"] - brows - tilt + 1.5 * from_eye**2
        of_brow = _soft(1.25 * g["eye_width"] - from_eye.abs()) * _line(y - brow, g["brow_width"])
        image = torch.lerp(image, g["hair"] * shade, 0.9 * of_brow)

    from_nose = (x - turned(0.0, 0.95)) / narrow
    between_brows = _soft(0.06 - from_nose.abs()) * torch.cos(60 * (y - g["eye_y"])).clamp_min(0)
    image = image * (1 - 0.3 * wrinkles * between_brows * _line(y - g["eye_y"], 0.12))
    nostrils = _ellipse(from_nose.abs() - 0.6 * g["nose_width"], y - g["nose_y"], 0.4 * g["nose_width"], 0.02)
    along = _soft(g["nose_y"] - y) * _soft(y - g["eye_y"])
    image = image * (1 - 0.5 * nostrils) * (1 - 0.18 * along * _line(from_nose - 0.5 * g["nose_width"], 0.03))
    cheek = g["nose_width"] + 0.05 + 0.5 * (y - g["nose_y"])
    beside_nose = _soft(y - g["nose_y"]) * _soft(g["mouth_y"] - y) * _line(from_nose.abs() - cheek, 0.02)
    image = image * (1 - 0.35 * wrinkles * beside_nose)

    half = (g["mouth_width"] + wider).clamp_min(0.08)
    from_mouth = (x - turned(0.0, 0.85)) / narrow
    bow = (from_mouth / half) ** 2
    line = g["mouth_y"] - (g["corners"] + corners) * bow + 0.5 * opening
    within = _soft(half - from_mouth.abs())
    gap = opening * (1 - bow).clamp_min(0).sqrt()
    lips = within * _soft(gap + g["lips"] - (y - line).abs())
    image = torch.lerp(image, 0.62 * g["skin"] * shade, lips)
    image = torch.lerp(image, torch.tensor(0.08), within * _soft(gap - (y - line).abs()))
    teeth = within * _line(y - (line - 0.6 * gap), 0.35 * gap) * (opening > 0.02)
    image = torch.lerp(image, torch.tensor(0.85), 0.8 * teeth)
    image = image * (1 - 0.5 * within * _line(y - line, 0.012) * (opening <= 0.02))

    image = image * between(0.7, 1.15) + noise * torch.randn(image.shape, generator=generator)
    return (255 * image.clamp(0, 1)).round().byte()


def _soft(distance: Tensor) -> Tensor:
    """1 where a signed distance is positive, 0 where it is negative, with an edge about a pixel wide."""
    return torch.sigmoid(SHARPNESS * distance)


def _line(distance: Tensor, width: Tensor | float) -> Tensor:
    """1 within `width` of a curve and 0 elsewhere, given the distances from the curve."""
    return _soft(width - distance.abs())


def _ellipse(x: Tensor, y: Tensor, radius_x: Tensor | float, radius_y: Tensor | float) -> Tensor:
    """1 inside an ellipse around the origin, 0 outside."""
    return _soft((1 - ((x / radius_x) ** 2 + (y / radius_y) ** 2).sqrt()) * radius_y)
