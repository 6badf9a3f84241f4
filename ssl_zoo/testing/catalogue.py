"""The list of checks, by name."""

from __future__ import annotations

from ssl_zoo.testing import definition, learning, processes, state, views
from ssl_zoo.testing.check import CheckFunction, by_name

_ALL: tuple[CheckFunction, ...] = (
    definition.check_describes_itself,
    definition.check_options_round_trip,
    definition.check_options_refuse_nonsense,
    definition.check_can_be_built,
    definition.check_recipe_is_valid,
    views.check_views_are_batches,
    views.check_views_obey_the_seed,
    views.check_views_vary,
    views.check_views_take_any_image,
    views.check_views_can_be_shown,
    views.check_throughput,
    learning.check_loss_is_finite_in_fp32,
    learning.check_loss_is_finite_in_bf16,
    learning.check_loss_changes_nothing_that_it_reads,
    learning.check_every_parameter_is_trained,
    learning.check_teachers_move_after_a_step_alone,
    learning.check_small_batch_overfits,
    learning.check_representations_do_not_collapse,
    state.check_features_are_pure,
    state.check_features_ignore_padding,
    state.check_resumed_training_is_the_same,
    state.check_batches_of_any_size_follow_each_other,
    state.check_labels_are_never_touched,
    state.check_indices_are_right,
    state.check_progress_is_told,
    state.check_exported_encoder_is_evaluated,
    processes.check_two_processes_are_one,
)

CHECKS = by_name(_ALL)
"""All checks of a task in the order in which they run, by the function's name without ``check_``."""
