"""Each promise of docs/faults.md is shown by tests that are there."""

import re
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "faults.md").read_text()
HEAD = "| fault | what happens | what you do |\n"

PROMISES = {
    "killed at any moment (SIGKILL, a power cut)": (
        "test_interruption.py::test_killed_at_20_random_moments",
        "test_interruption.py::test_killed_before_every_write_of_a_run",
        "test_share.py::test_a_killed_share_and_another_one_end_in_the_same_bytes",
        "test_token_cohorts.py::test_a_cut_share_goes_on_where_it_stopped",
    ),
    "Ctrl-C, even during an import or one long call": (
        "test_cli_start.py::test_an_interruption_ends_the_process_wherever_it_is",
        "test_cli_faults.py::test_an_interrupted_command_says_in_one_line_how_to_go_on",
    ),
    "the disk is full at any write": (
        "test_cli_faults.py::test_a_disk_that_is_full_at_any_write_is_one_line_and_the_same_command_ends_well",
        "test_parts.py::test_a_disk_that_is_full_at_any_write_loses_nothing",
    ),
    "the target may not be written": (
        "test_cli_faults.py::test_a_target_that_may_not_be_written_is_one_line",
    ),
    "a second process on one folder or file": (
        "test_cli_faults.py::test_a_folder_in_use_is_refused_with_whose_it_is",
        "test_cli_faults.py::test_what_takes_longest_says_so_before_it_begins",
        "test_cli_faults.py::test_two_that_finish_one_data_set_both_do",
        "test_cli_faults.py::test_two_commands_that_write_one_file_both_end_well",
        "test_cli_faults.py::test_two_writers_of_one_file_both_write_it_whole",
        "test_token_cohorts.py::test_a_share_lets_other_shares_learn_and_refuses_one_process",
    ),
    "nobody reads the output (`| head -1`)": (
        "test_cli_faults.py::test_an_object_that_nobody_reads_ends_quietly",
        "test_cli_start.py::test_results_that_nobody_reads_end_quietly",
    ),
    "memory runs out in a phase of a run of one process": (
        "test_faults.py::test_memory_that_runs_out_in_any_phase_costs_no_image",
        "test_faults.py::test_a_run_that_shrank_and_was_cut_says_so_once_it_is_resumed",
        "test_token_cohorts.py::test_a_file_says_what_it_was_learned_on",
    ),
    "memory runs out elsewhere": (
        "test_cli_faults.py::test_memory_that_runs_out_anywhere_is_one_line",
    ),
    "the clock is set back, or was ahead": (
        "test_faults.py::test_a_clock_that_is_set_back_changes_nothing",
        "test_parts.py::test_finishing_deletes_what_killed_writers_left_a_day_ago_also_of_a_clock_that_was_ahead",
    ),
    "`learn-tokens` is killed after it wrote its file, before it tidied up": (
        "test_token_cohorts.py::test_what_a_kill_left_beside_a_finished_file_is_deleted_by_the_next_call",
    ),
    "`run.json`, a manifest, a comparison's measures or a kept classifier is cut short or altered": (
        "test_faults.py::test_damaged_records_are_named_with_the_remedy",
        "test_faults.py::test_a_flipped_bit_of_a_manifest_is_found_or_changes_no_row",
        "test_facts.py::test_a_flipped_bit_of_a_record_is_found",
        "test_table.py::test_a_flipped_bit_is_found_or_changes_nothing",
        "test_export_statistics.py::test_what_is_no_statistics_file",
        "test_fit.py::test_a_damaged_classifier_is_refused_with_the_remedy",
    ),
    "a worker is killed": (
        "test_ray.py::test_ray_makes_the_bytes_of_one_process_though_a_worker_is_killed",
    ),
    "the driver of `--ray` is killed, or ended by Ctrl-C": (
        "test_ray.py::test_a_command_that_ends_leaves_no_worker_and_the_same_command_makes_what_is_missing",
    ),
    "a node leaves or joins": ("test_ray.py::test_a_run_outlives_its_node_where_another_joins",),
    "a worker of Ray runs out of memory": (
        "test_ray.py::test_a_worker_without_memory_hands_its_part_back_and_other_errors_end_the_run",
    ),
    "a share runs out of memory": (
        "test_faults.py::test_a_share_never_shrinks_and_the_same_command_makes_the_rest",
    ),
    "a worker that learns tokens is killed": (
        "test_tokens.py::test_ray_learns_the_bytes_of_one_process_though_a_worker_is_killed",
        "test_tokens.py::test_workers_learn_the_bytes_of_one_run_though_one_is_killed",
    ),
    "a cohort of tokens takes long": (
        "test_tokens.py::test_a_worker_learns_also_what_a_slow_one_learns_and_a_share_does_not",
        "test_driver.py::test_parts_that_differ_much_are_neither_slow_nor_hanging_for_that",
    ),
    "Ray was imported or initialised by the caller's script": (
        "test_ray.py::test_a_ray_that_the_caller_imported_or_initialised_is_refused_with_the_remedy",
    ),
    "two processes make one part": (
        "test_parts.py::test_two_kinds_write_one_part_and_it_is_kept_once",
    ),
    "two drivers of `--ray`, or a driver and shares, work on one data set": (
        "test_ray.py::test_two_drivers_of_one_run_share_its_parts",
        "test_share.py::test_what_another_process_made_meanwhile_is_not_made_again",
    ),
    "two drivers of `--ray`, or a driver and shares, learn one token file": (
        "test_tokens.py::test_a_second_driver_of_one_file_is_refused",
    ),
    "a part takes twice as long as usual": (
        "test_driver.py::test_a_slow_part_is_made_twice_and_counts_once",
    ),
    "a worker hangs": (
        "test_driver.py::test_a_hanging_worker_is_stopped_and_its_part_made_by_another",
    ),
    "a part kills its workers": (
        "test_driver.py::test_a_part_that_kills_its_workers_ends_the_run_by_name",
        "test_driver.py::test_a_part_is_not_to_blame_for_nodes_that_are_taken_away",
        "test_tokens.py::test_a_cohort_whose_workers_are_killed_is_not_to_blame_while_it_gets_on",
    ),
    "a part takes its node down each time": (
        "test_driver.py::test_a_part_that_always_takes_its_node_down_ends_the_run_by_name",
    ),
    "workers never get ready": (
        "test_driver.py::test_workers_that_never_start_end_the_run_with_the_reason",
    ),
    "no worker is ready": (
        "test_driver.py::test_a_worker_that_never_gets_ready_is_noted_each_minute_and_ends_the_run",
    ),
    "a worker needs more than any node has": (
        "test_ray.py::test_a_worker_that_no_node_can_hold_is_refused_at_once",
    ),
    "a machine is of another kind, has too little memory, or its GPU fails": (
        "test_ray.py::test_a_machine_that_does_not_suit_costs_a_worker_and_the_callers_mistake_the_run",
        "test_ray.py::test_one_odd_machine_does_not_end_a_run_that_others_make",
    ),
    "a worker answers with another error, such as a model that is not there": (
        "test_driver.py::test_an_error_of_a_healthy_worker_ends_the_run_at_once",
    ),
    "a part's file is cut short, altered or deleted": (
        "test_parts.py::test_damage_is_found_and_its_part_alone_is_made_again",
        "test_parts.py::test_who_reads_a_damaged_part_gets_no_image_of_it_and_what_to_run",
    ),
    "a part cannot be read for now: an I/O error, missing permissions, a service that does not answer": (
        "test_parts.py::test_a_part_that_cannot_be_read_is_not_taken_for_damaged",
    ),
    "`parts.json` or `run.json` is altered or cut short": (
        "test_parts.py::test_a_record_that_does_not_fit_the_parts_deletes_none_of_them",
        "test_parts.py::test_a_division_that_is_cut_off_is_damaged_and_no_other_version",
        "test_parts.py::test_a_record_of_other_settings_is_not_taken_for_that_of_the_parts",
    ),
    "`parts.json` or `run.json` is gone": (
        "test_parts.py::test_a_lost_record_is_written_again_by_the_same_run_alone",
        "test_parts.py::test_a_lost_division_is_written_again_by_the_same_run_on_such_a_machine",
    ),
    "no cluster of Ray answers at `HOST:PORT`": (
        "test_ray.py::test_a_place_where_nothing_listens_is_refused_before_ray_tries_it",
    ),
    "S3 refuses or cannot be reached": (
        "test_store.py::test_a_service_that_cannot_be_reached_says_what_to_check",
        "test_store.py::test_a_run_into_s3_that_is_cut_and_resumed_has_the_bytes_of_a_local_one",
    ),
    "two processes write one file of S3": (
        "test_store.py::test_one_of_many_writers_creates",
        "test_store.py::test_a_second_writer_that_a_service_refuses_in_its_words",
    ),
}
"""Which tests show what becomes of a fault, in the order of the page."""


def test_each_fault_of_the_page_has_its_tests() -> None:
    rows = [row for table in PAGE.split(HEAD)[1:] for row in _rows(table)]
    faults = [re.split(r"(?<!\\)\|", row)[1].strip().replace("\\|", "|") for row in rows]
    assert faults == list(PROMISES)


def test_the_tests_exist() -> None:
    for tests in PROMISES.values():
        for test in tests:
            file, name = test.split("::")
            texts = [path.read_text() for path in (ROOT / "tests").rglob(file)]
            assert sum(f"def {name}(" in text for text in texts) == 1, f"{file} has no {name}"


def _rows(table: str) -> list[str]:
    """The lines of a table's body, up to the first that is none of it."""
    return list(takewhile(lambda line: line.startswith("| "), table.splitlines()[1:]))
