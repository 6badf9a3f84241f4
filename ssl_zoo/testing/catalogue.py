"""The list of checks, by name."""

from __future__ import annotations

from ssl_zoo.testing import (
    definition,
    learning,
    loss_checks,
    processes,
    source_order,
    source_samples,
    state,
    views,
)
from ssl_zoo.testing.check import CheckFunction, by_name

_OF_TASKS: tuple[CheckFunction, ...] = (
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
    learning.check_passes_are_as_declared,
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

CHECKS = by_name(_OF_TASKS)
"""All checks of a task in the order in which they run, by the function's name without ``check_``."""

_OF_SOURCES: tuple[CheckFunction, ...] = (
    source_samples.check_can_be_opened,
    source_samples.check_options_refuse_nonsense,
    source_samples.check_spec_is_registered,
    source_samples.check_samples_can_be_prepared,
    source_samples.check_example_is_like_samples,
    source_samples.check_samples_can_be_shown,
    source_samples.check_labels_are_classes,
    source_samples.check_names_are_as_many,
    source_samples.check_sizes_are_right,
    source_samples.check_test_split_is_apart,
    source_order.check_batches_have_one_form,
    source_order.check_batches_follow_from_indices,
    source_order.check_batches_are_new,
    source_order.check_subsets_are_the_same_samples,
    source_order.check_passes_resume,
    source_order.check_processes_share_a_pass,
    source_order.check_streams_yield_each_sample_once,
    source_order.check_streams_follow_from_the_seed,
    source_order.check_streams_start_anywhere,
)

SOURCE_CHECKS = by_name(_OF_SOURCES)
"""All checks of a source, likewise."""

_OF_LOSSES: tuple[CheckFunction, ...] = (
    loss_checks.check_can_be_called,
    loss_checks.check_gradient_is_that_of_finite_differences,
    loss_checks.check_is_precise_in_fp32,
    loss_checks.check_is_precise_in_bf16,
    loss_checks.check_is_precise_in_fp16,
    loss_checks.check_is_finite_where_embeddings_coincide,
    loss_checks.check_follows_from_the_seed,
    loss_checks.check_draws_no_random_numbers,
    loss_checks.check_changes_nothing_that_it_reads,
    loss_checks.check_two_processes_are_one,
)

LOSS_CHECKS = by_name(_OF_LOSSES)
"""All checks of a loss, likewise."""
