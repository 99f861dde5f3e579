"""
Each row of the documentation's tables of behaviour is held by a test.

Where a test has the rows of a table as its own, the two are compared. For all other tables, HELD names the test that
holds each row, as `file::name`; a row without an entry, an entry without a row, and a test that is gone are failures.
"""

from __future__ import annotations

import ast
from dataclasses import fields
from functools import cache
from typing import Any, Final

import pytest

from orchestrator import Breaker, Concurrency, RateLimit
from tests.docs.pages import ROOT
from tests.docs.tables import table
from tests.state.test_breaker_states import BREAKER_ROWS, SHARE_ROWS
from tests.state.test_rate_limits import LIMIT, RATE_ROWS

TROUBLE: Final = "tests/integration/test_trouble.py::test_"
RESORTS: Final = "tests/integration/test_last_resorts.py::test_"
HIERARCHY: Final = "tests/integration/test_hierarchy.py::test_"
CANCEL: Final = "tests/integration/test_cancel.py::test_"
GATES: Final = "tests/integration/test_gates.py::test_"
GUARDS: Final = "tests/state/test_guards.py::test_"
TURNS: Final = "tests/state/test_turns.py::test_"
BUDGETS: Final = "tests/state/test_budgets.py::test_"
DEAD: Final = "tests/integration/test_cli_resilience.py::test_"
MATRIX: Final = "tests/chaos/test_matrix.py::test_"
CRASH: Final = "tests/chaos/test_crash_points.py::test_"
DELIVERIES: Final = "tests/integration/test_deliveries.py::test_"
SUBMIT: Final = "tests/state/test_submit.py::test_"
FORESIGHT: Final = "tests/state/test_foresight.py::test_"
GUARDING: Final = "tests/unit/test_guarding.py::test_"

M9: Final = f"{MATRIX}poison_ends_as_a_dead_letter_after_so_many_begins_and_nothing_else_fails"
M11: Final = f"{MATRIX}messages_that_come_several_times_in_any_order_and_late_are_executed_once"
SURVIVES: Final = f"{CRASH}a_run_survives_the_death_of_its_child_at"
ONCE: Final = "tests/integration/test_once.py::test_what_a_killed_worker_has_recorded_is_not_done_again"
FELL: Final = f"{RESORTS}a_step_falls_back_where_a_breaker_does_not_let_it_wait"
WAITED: Final = f"{RESORTS}a_step_waits_for_a_breaker_that_lets_it_wait"
FAILED: Final = f"{RESORTS}a_step_fails_where_a_breaker_lets_it_neither_wait_nor_fall_back"
LADDER: Final = f"{RESORTS}a_budget_s_ladder_is_climbed_down"
STOPS: Final = f"{RESORTS}where_no_rung_is_left_a_run_without_budget_fails"
CHILDREN: Final = f"{TROUBLE}children_end_with_their_parent_and_are_submitted_once"

# By page and heading of the table: what its rows begin with, and who holds each.
HELD: Final[dict[tuple[str, str], dict[tuple[str, ...], tuple[str, ...]]]] = {
    ("breakers-and-limits.md", "`when_open` | The agent has a fallback left"): {
        ('`"auto"`',): (f"{TROUBLE}an_open_breaker_lets_steps_fall_back", WAITED),
        ('`"wait"`',): (WAITED,),
        ('`"fallback"`',): (FELL, FAILED),
        ('`"fail"`',): (FAILED,),
    },
    ("breakers-and-limits.md", "A step | What happens"): {
        ("comes", "everything lets it through, nobody waits"): (
            f"{GUARDS}calls_under_way_are_limited_in_all_and_by_tenant",
        ),
        ("comes", "everything lets it through, others wait"): (
            f"{TURNS}one_that_waits_keeps_its_place_and_nobody_passes_it",
        ),
        ("comes", "something refuses it"): (
            f"{TURNS}those_who_wait_go_in_order_of_priority_and_fairly_between_tenants",
            f"{TROUBLE}a_rate_is_kept_and_no_worker_waits_for_it",
        ),
        ("comes", "something refuses it for good, or does not let it wait"): (
            "tests/state/test_rate_limits.py::test_what_can_never_pass_is_not_queued",
            FELL,
            FAILED,
        ),
        ("waits", "it asks again"): (f"{TURNS}one_that_waits_keeps_its_place_and_nobody_passes_it",),
        ("waits", "there is room, and it is the first"): (
            f"{TURNS}a_turn_is_reserved_and_taken_when_its_member_comes",
        ),
        ("waits", "its tenant alone is at its limit"): (
            f"{TURNS}a_tenant_at_its_own_limit_does_not_hold_up_the_others",
            f"{TROUBLE}no_more_attempts_run_at_a_time_than_allowed_and_tenants_are_served_in_turn",
        ),
        ("waits", "a breaker opens that lets nobody wait"): (
            f"{TURNS}a_breaker_that_lets_nobody_wait_sends_those_who_wait_to_their_fallback",
        ),
        ("is called", "it comes"): (f"{TURNS}a_turn_is_reserved_and_taken_when_its_member_comes",),
        ("is called", "it comes, but a gate was closed or a breaker opened"): (
            f"{TURNS}a_gate_that_closes_after_a_turn_was_given_holds_it_too_and_in_front",
        ),
        ("is called", "it does not come in 10 s"): (
            f"{TURNS}a_turn_that_nobody_came_for_is_given_once_more_and_then_forgotten",
        ),
        ("runs", "its attempt ends"): (
            f"{TURNS}a_probe_is_granted_to_one_that_waits_and_its_success_lets_the_others_go",
        ),
        ("runs", "its worker dies"): (
            f"{GUARDS}an_attempt_takes_its_own_where_the_lost_one_still_holds_something",
            f"{GUARDS}what_a_dead_worker_holds_is_free_when_its_time_is_over",
            f"{TROUBLE}the_place_of_a_cancelled_run_whose_worker_died_is_free_within_the_lease",
            f"{BUDGETS}a_reservation_counts_where_nobody_says_what_was_used",
        ),
        ("runs", "it takes longer than its lease, its gate included"): (
            f"{GUARDS}what_a_call_holds_is_kept_while_its_worker_says_so",
        ),
        ("runs", "it asks late, and a later attempt has its step by now"): (
            "tests/state/test_lost_holds.py::test_an_attempt_that_was_lost_before_it_asked_is_not_let_through",
        ),
    },
    ("fallbacks-and-budgets.md", "Rung | What takes the output's place"): {
        ("an agent",): (
            f"{TROUBLE}a_simpler_agent_takes_over_and_the_result_is_marked",
            f"{RESORTS}where_a_fallback_fails_too_the_next_one_is_taken",
        ),
        ("`Cached(max_age=3600.0, same_input=True)`",): (
            f"{TROUBLE}the_last_good_output_takes_over_with_its_age",
            f"{RESORTS}the_last_good_output_is_taken_where_the_budget_is_used_up",
            f"{GUARDS}the_last_good_output_is_kept_for_its_time_with_its_age",
            "tests/unit/test_fallback_policies.py::test_a_cached_output_is_an_hour_old_at_most_and_of_the_same_input",
        ),
        ("`Constant(value)`",): (f"{TROUBLE}a_constant_takes_over",),
    },
    ("fallbacks-and-budgets.md", "What keeps an agent from its output"): {
        ("an error that is not tried again, or its last attempt",): (
            f"{TROUBLE}a_simpler_agent_takes_over_and_the_result_is_marked",
        ),
        ("an input that does not fit it, an output that is too large",): (
            f"{RESORTS}what_no_other_attempt_would_mend_falls_back_at_once",
        ),
        ("its breaker is open, and [does not let it wait](breakers-and-limits.md#the-breaker)",): (
            FELL,
            f"{TROUBLE}an_open_breaker_lets_steps_fall_back",
        ),
        ("a limit is reached, or others come first",): (f"{TROUBLE}a_rate_is_kept_and_no_worker_waits_for_it",),
        ("a budget is used up",): (LADDER,),
        ("its deadline passes while it runs",): (
            f"{RESORTS}a_step_whose_time_is_over_takes_a_value_that_is_there_and_no_agent",
            "tests/state/test_ends.py::test_a_step_at_work_has_a_moment_to_end_by_itself_when_its_time_is_over",
        ),
        ("its deadline passes before, in its queue or while it waits",): (
            f"{TROUBLE}a_step_that_nobody_takes_in_time_fails_by_its_deadline",
            f"{RESORTS}a_step_whose_time_is_over_before_it_runs_fails",
        ),
        ("its run's deadline passes",): (
            "tests/integration/test_recovery.py::test_a_run_past_its_deadline_fails_whatever_it_is_doing",
        ),
        ("it kept losing its worker",): (M9,),
        ("there is no rung left",): (f"{RESORTS}where_no_fallback_is_left_the_run_fails",),
    },
    ("fallbacks-and-budgets.md", "What happens"): {
        ("an attempt needs more than one of its budgets has left",): (
            f"{BUDGETS}a_budget_and_those_above_it_must_all_have_room",
            f"{BUDGETS}a_tenant_s_budget_renews_and_those_who_wait_for_that_go_on",
        ),
        ("an attempt needs nothing (`estimate=0`)",): (f"{BUDGETS}a_budget_and_those_above_it_must_all_have_room",),
        ("it ends and used less",): (
            f"{BUDGETS}a_budget_and_those_above_it_must_all_have_room",
            f"{BUDGETS}a_tenant_s_budget_renews_and_those_who_wait_for_that_go_on",
        ),
        ("it ends and used more",): (f"{BUDGETS}a_budget_and_those_above_it_must_all_have_room",),
        ("it ends and nobody says what it used; it is lost or forgotten",): (
            f"{BUDGETS}a_reservation_counts_where_nobody_says_what_was_used",
        ),
        ("a budget is changed",): (f"{BUDGETS}budgets_are_set_changed_listed_and_dropped",),
        ("there is no such budget",): (f"{BUDGETS}a_budget_and_those_above_it_must_all_have_room",),
    },
    ("fallbacks-and-budgets.md", "Rung | What happens"): {
        ('`"cheaper"`',): (f"{TROUBLE}a_run_without_budget_left_takes_a_cheaper_agent", LADDER),
        ('`"cached"`',): (LADDER, f"{RESORTS}the_last_good_output_is_taken_where_the_budget_is_used_up"),
        ('`"partial"`',): (f"{TROUBLE}a_run_without_budget_left_ends_with_what_it_has", STOPS),
        ('`"stop"`',): (f"{TROUBLE}a_run_without_budget_left_stops", STOPS),
    },
    ("cancel-and-undo.md", "A step that"): {
        ("is queued",): (f"{CANCEL}a_queued_run_never_starts",),
        ("is delayed, until a retry or its turn at a limit or breaker",): (
            f"{TROUBLE}a_delayed_and_a_waiting_step_end_with_their_run",
        ),
        ("waits for a person",): (f"{CANCEL}a_run_at_its_gate_cannot_be_approved_after_its_cancel",),
        ("runs",): (f"{TROUBLE}a_cancelled_agent_has_its_grace_time",),
        ("runs on after that",): (
            f"{TROUBLE}a_cancelled_agent_that_does_not_react_is_interrupted",
            f"{CANCEL}an_async_handler_is_cancelled_and_its_finally_runs",
        ),
        ("returns something nevertheless",): (f"{CANCEL}a_sync_handler_sees_it_and_what_it_returns_is_discarded",),
        ("runs on a worker that has died",): (
            f"{TROUBLE}the_place_of_a_cancelled_run_whose_worker_died_is_free_within_the_lease",
        ),
        ("is of a child, or a child's child",): (CHILDREN,),
        ("is done, and can be undone",): (f"{TROUBLE}what_was_done_is_undone_when_the_run_is_cancelled",),
    },
    ("cancel-and-undo.md", "What happens"): {
        ("the run fails, of whatever",): (f"{TROUBLE}what_was_done_is_undone_in_reverse_when_the_run_fails",),
        ("its deadline passes",): (
            f"{RESORTS}a_run_past_its_deadline_undoes_what_it_did",
            f"{RESORTS}what_is_not_undone_in_its_time_is_told",
        ),
        ("it is cancelled",): (f"{TROUBLE}what_was_done_is_undone_when_the_run_is_cancelled",),
        ("it is completed, even if only in part",): (f"{RESORTS}nothing_is_undone_where_a_run_ends_with_a_part",),
        ("an undo agent raises",): (f"{TROUBLE}what_was_done_is_undone_in_reverse_when_the_run_fails",),
        ("an undo agent fails for good",): (f"{TROUBLE}what_cannot_be_undone_is_told_and_everything_else_is_undone",),
        ("not everything is undone after a day",): (f"{RESORTS}what_is_not_undone_in_its_time_is_told",),
        ("the run is cancelled while it is undone",): (f"{RESORTS}a_run_that_is_being_undone_goes_on_with_it",),
        ("it is [sent again](dead-letters.md)",): (
            f"{TROUBLE}a_dead_letter_is_sent_again_and_goes_on_where_it_failed",
        ),
    },
    ("retry-and-timeouts.md", "Limit | From"): {
        ("`@agent(timeout=)`",): (
            "tests/integration/test_pipeline.py::test_a_failed_step_fails_its_run_with_the_reason",
            "tests/integration/test_asyncio_pool.py::test_an_agent_past_its_timeout_is_interrupted_and_its_finally_runs",
        ),
        ("`@agent(idle=)`",): (
            f"{TROUBLE}an_attempt_without_a_sign_of_life_is_given_up",
            f"{TROUBLE}an_attempt_that_shows_signs_of_life_goes_on",
        ),
        ("`@agent(deadline=)`",): (
            f"{TROUBLE}a_step_has_a_deadline_over_all_its_attempts_and_sees_it",
            f"{TROUBLE}a_step_that_nobody_takes_in_time_fails_by_its_deadline",
        ),
        ("`submit(deadline=)`",): (
            "tests/integration/test_recovery.py::test_a_run_past_its_deadline_fails_whatever_it_is_doing",
        ),
    },
    ("dead-letters.md", "Kind"): {
        ("`failed`",): (f"{TROUBLE}after_the_last_attempt_the_run_fails_and_is_a_dead_letter",),
        ("`poison`",): (M9,),
        ("`deadline`",): (f"{TROUBLE}a_step_that_nobody_takes_in_time_fails_by_its_deadline",),
        ("`undo`",): (f"{TROUBLE}what_cannot_be_undone_is_told_and_everything_else_is_undone",),
        ("`unreadable`",): (
            f"{MATRIX}malformed_messages_are_set_aside_and_all_good_ones_run",
            f"{DEAD}filters_choose_among_runs_and_messages",
        ),
    },
    ("dead-letters.md", "Option"): {
        ("none",): (
            f"{DEAD}run_is_redriven_as_it_was_and_listed_no_more",
            f"{TROUBLE}a_dead_letter_is_sent_again_and_goes_on_where_it_failed",
        ),
        ("`--input FILE`",): (
            f"{DEAD}run_is_redriven_with_another_input",
            f"{DEAD}what_is_given_for_the_step_that_failed_is_not_taken_by_one_that_was_undone",
        ),
        ("`--to AGENT`",): (f"{DEAD}run_is_redriven_to_another_agent_with_another_deadline",),
        ("`--step STEP`",): (
            f"{TROUBLE}a_dead_letter_is_sent_again_and_goes_on_where_it_failed",
            f"{DEAD}what_is_given_for_the_step_that_failed_is_not_taken_by_one_that_was_undone",
        ),
        ("`--deadline SECONDS`",): (f"{DEAD}run_is_redriven_to_another_agent_with_another_deadline",),
        ("`--all`",): (f"{DEAD}all_that_fit_are_redriven_once_somebody_has_agreed",),
    },
    ("exactly-once.md", "What"): {
        ("a run for a `key`",): (f"{SUBMIT}thirty_two_concurrent_submissions_with_one_key_give_one_run",),
        ("a run for a submission without a key",): (
            f"{CRASH}a_producer_that_dies_leaves_no_run_or_one_that_finishes",
            f"{SUBMIT}a_submission_sent_again_because_its_reply_was_lost_is_enqueued",
        ),
        ("a message to a worker",): (f"{DELIVERIES}a_lost_message_is_published_again",),
        ("an attempt for a message",): (f"{DELIVERIES}a_message_delivered_three_times_is_executed_once", M11),
        ("the agent's code for a step",): (SURVIVES,),
        ("its output in the log, and in the state",): (M11, SURVIVES),
        ("the step that follows",): (M11, f"{CRASH}a_run_survives_the_death_of_its_worker_at"),
        ("a gate's check",): (f"{CRASH}what_a_gate_decided_survives_the_death_of_who_would_publish_it",),
        ("a person's decision",): (f"{GATES}a_gate_is_decided_once",),
        ("`ctx.once(name, make)`",): (ONCE,),
        ("an effect outside Redis",): (SURVIVES,),
        ("an effect outside Redis that is given `ctx.idempotency_key`",): (SURVIVES,),
        ("`ctx.submit(flow, input)`",): (CHILDREN,),
        ("an undo",): (f"{TROUBLE}what_was_done_is_undone_in_reverse_when_the_run_fails",),
        ("a call counted by a limit, a budget or a breaker",): (
            f"{GUARDS}a_member_that_asks_again_holds_once_and_keeps_it_longer",
            f"{GUARDS}a_second_settling_changes_nothing",
        ),
    },
    ("build-a-hierarchy.md", "Given"): {
        ('`to="search"`',): (f"{HIERARCHY}an_assignment_that_cannot_be_done_fails_alone_with_a_reason_that_helps",),
        ('`capability="legal"`',): (f"{HIERARCHY}those_who_are_capable_take_the_work_in_turn",),
        ("neither",): (f"{HIERARCHY}an_assignment_that_cannot_be_done_fails_alone_with_a_reason_that_helps",),
    },
    ("build-a-hierarchy.md", "`status`"): {
        ("`ok`",): (f"{HIERARCHY}what_the_specialists_gave_is_put_together_in_the_order_of_the_plan",),
        ("`degraded`",): (f"{HIERARCHY}a_failed_assignment_is_a_value_where_the_join_tolerates_it",),
        ("`failed`",): (f"{HIERARCHY}a_failed_assignment_is_a_value_where_the_join_tolerates_it",),
        ("`late`",): (
            f"{HIERARCHY}as_soon_as_enough_are_done_the_rest_is_cancelled",
            f"{HIERARCHY}when_the_time_is_over_what_is_there_is_put_together",
        ),
    },
    ("build-a-hierarchy.md", "`Join(...)`"): {
        ("`need=1.0`, the default",): (
            f"{HIERARCHY}what_the_specialists_gave_is_put_together_in_the_order_of_the_plan",
            f"{HIERARCHY}a_failed_assignment_fails_the_run_where_all_are_needed",
        ),
        ("`need=0.8`",): (f"{HIERARCHY}a_share_counts_by_weight",),
        ("`need=3`",): (f"{HIERARCHY}as_soon_as_enough_are_done_the_rest_is_cancelled",),
        ("`accept=good_enough`",): (f"{HIERARCHY}the_first_acceptable_answer_is_enough",),
        ("`deadline=60.0`",): (f"{HIERARCHY}when_the_time_is_over_what_is_there_is_put_together",),
    },
    ("build-a-hierarchy.md", "`otherwise`"): {
        ('`"fail"`, the default',): (
            f"{HIERARCHY}a_quorum_that_cannot_be_reached_any_more_fails_the_run_at_once",
            f"{HIERARCHY}where_no_answer_is_acceptable_the_run_fails",
            f"{HIERARCHY}when_the_time_is_over_a_strict_join_fails_the_run",
        ),
        ('`"degrade"`',): (
            f"{HIERARCHY}a_failed_assignment_is_a_value_where_the_join_tolerates_it",
            f"{HIERARCHY}when_the_time_is_over_what_is_there_is_put_together",
        ),
    },
    ("build-a-hierarchy.md", "What happens"): {
        ("a step of a specialist's flow fails for good",): (
            f"{HIERARCHY}where_a_specialists_pipeline_fails_the_assignment_does",
        ),
        ("the join of an inner hierarchy fails",): (
            f"{HIERARCHY}a_failed_hierarchy_is_a_failed_assignment_of_the_one_above",
        ),
        ("the run is cancelled, or its deadline passes",): (f"{HIERARCHY}a_cancel_reaches_all_that_is_below",),
        ("the outer fan-out is joined without an assignment",): (
            f"{HIERARCHY}what_is_within_a_late_assignment_is_cancelled",
        ),
    },
    ("how-it-works.md", "A step of"): {
        ("an agent without breakers, limits or an estimate, in a run without a budget",): (
            f"{GUARDING}what_is_not_declared_costs_no_round_trip",
        ),
        ("an agent with any of them, however many",): (
            f"{FORESIGHT}guards_cost_a_step_round_trips_only_where_its_message_does_not_tell_all",
        ),
        ("the same, with an estimate that is a function, or that undoes another",): (
            f"{FORESIGHT}guards_cost_a_step_round_trips_only_where_its_message_does_not_tell_all",
            f"{FORESIGHT}a_step_with_a_budget_and_one_that_undoes_another_ask_when_they_are_begun",
        ),
        ("a run with a budget, its own or a parent's",): (
            f"{FORESIGHT}guards_cost_a_step_round_trips_only_where_its_message_does_not_tell_all",
        ),
        ("an agent with `Cached` among its fallbacks and nothing else",): (
            f"{GUARDING}what_is_not_declared_costs_no_round_trip",
        ),
    },
}

NEXT_CALL: Final = {"passes": "passes", "refused": "is refused", "probe": "is a probe"}


def test_the_states_of_a_breaker_are_those_of_its_test() -> None:
    for heading, rows in (("State | What happens", BREAKER_ROWS), ("State | What is in the window", SHARE_ROWS)):
        told = [[state, event, then, NEXT_CALL[call]] for state, event, _, _, then, call in rows]
        assert table("breakers-and-limits.md", heading) == told


def test_what_a_rate_limit_lets_through_is_what_its_test_says() -> None:
    assert RateLimit(requests=3, tokens=100, per=1.0) == LIMIT
    told = [[state, event, fares(answer)] for state, event, _, _, answer in RATE_ROWS]
    assert table("breakers-and-limits.md", "The limit") == told


def fares(answer: str) -> str:
    """Return how a call fares that gets this answer, as a person would say it."""
    if answer == "passes":
        return answer
    retry_ms = int(answer.split()[1])
    return "is refused for good" if retry_ms < 0 else f"waits {retry_ms / 1000:g} s"


def test_the_options_of_a_breaker_and_of_limits_are_those_there_are_with_their_defaults() -> None:
    told = [[name, default.replace('"', "'")] for name, default in options("Option of `Breaker`")]
    assert told == [[field.name, repr(field.default)] for field in fields(Breaker)]
    assert options("Option") == [
        [f"{policy.__name__}({field.name}=)", repr(field.default)]
        for policy in (RateLimit, Concurrency)
        for field in fields(policy)
    ]


def options(heading: str) -> list[list[str]]:
    return [[name.strip("`"), default.strip("`")] for name, default, _ in table("breakers-and-limits.md", heading)]


@pytest.mark.parametrize("where", HELD, ids=[" ".join(where) for where in HELD])
def test_each_row_of_a_table_is_held_by_a_test_that_exists(where: tuple[str, str]) -> None:
    held = HELD[where]
    cells = len(next(iter(held)))
    assert [tuple(row[:cells]) for row in table(*where)] == list(held)
    gone = [test for tests in held.values() for test in tests if not exists(test)]
    assert gone == []


def test_a_test_that_does_not_exist_is_found() -> None:
    assert exists("tests/docs/test_tables.py::test_a_test_that_does_not_exist_is_found")
    assert not exists("tests/docs/test_tables.py::test_that_everything_is_well")
    assert not exists("tests/docs/test_nothing.py::test_a_test_that_does_not_exist_is_found")


def exists(test: str) -> bool:
    file, _, name = test.partition("::")
    return name in functions(file)


@cache
def functions(file: str) -> frozenset[str]:
    """Return the names of a file's functions; none where there is no such file."""
    path = ROOT / file
    if not path.exists():
        return frozenset()
    tree: Any = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
