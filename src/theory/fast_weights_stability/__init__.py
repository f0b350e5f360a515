"""Which settings of fast weights (λ, η, S, layer norm) make the recurrence stable, the open question of the reports."""

from src.theory.base import Demonstration
from src.theory.fast_weights_stability import layer_norm_invariance, training, with_layer_norm, without_layer_norm

DEMONSTRATIONS = (
    Demonstration("fast_weights_without_layer_norm", without_layer_norm.find_blow_up, without_layer_norm.draw_blow_up),
    Demonstration("fast_weights_with_layer_norm", with_layer_norm.normalize_dynamics, with_layer_norm.draw_bounded),
    Demonstration("layer_norm_invariance", layer_norm_invariance.scale_states, layer_norm_invariance.draw_invariance),
    Demonstration(
        "fast_weights_before_and_after_training",
        training.compare_before_and_after,
        training.draw_before_and_after,
    ),
    Demonstration(
        "fast_weights_training_across_settings",
        training.train_across_settings,
        training.draw_learning,
    ),
)
