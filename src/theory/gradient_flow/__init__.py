"""Vanishing and exploding gradients of recurrent networks before and after training, with the known bounds."""

from src.theory.base import Demonstration
from src.theory.gradient_flow import error_carousel, initialization, limits, training

DEMONSTRATIONS = (
    Demonstration("gradient_norms_at_initialization", initialization.measure_at_start, initialization.draw_initial),
    Demonstration("gradient_norms_after_training", training.measure_after_training, training.draw_training),
    Demonstration("powers_of_a_matrix", limits.compare_powers, limits.draw_powers),
    Demonstration("conditions_on_the_largest_singular_value", limits.compare_conditions, limits.draw_conditions),
    Demonstration("constant_error_carousel", error_carousel.ride_carousel, error_carousel.draw_carousel),
)
