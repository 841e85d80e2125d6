"""What the sensors decide, without a database."""

from kb_pipeline.orchestration.sensor_decisions import (
    LOOK_ANYWAY_AFTER_SECONDS,
    MAX_ATTEMPTS,
    SILENCE_SECONDS,
    START_SECONDS,
    Due,
    Heard,
    Look,
    Past,
    Seen,
    digest_of,
    is_news,
    runs_to_launch,
    silent_runs,
    still_files,
)

TEN = Due("quant", 10, "d1")


def test_all_tunes_of_a_workspace_are_one_run() -> None:
    plan = runs_to_launch([TEN], set(), {})
    assert [it.run_key for it in plan.launch] == ["quant:d1:1"]


def test_a_workspace_somebody_works_on_waits() -> None:
    plan = runs_to_launch([TEN], {"quant"}, {})
    assert (plan.launch, plan.in_flight) == ([], ["quant"])


def test_a_failed_run_is_tried_again_under_another_key() -> None:
    plan = runs_to_launch([TEN], set(), {"d1": Past(failed=1)})
    assert [it.run_key for it in plan.launch] == ["quant:d1:2"]


def test_after_the_last_attempt_it_is_left_to_a_person_and_said_so() -> None:
    plan = runs_to_launch([TEN], set(), {"d1": Past(failed=MAX_ATTEMPTS)})
    assert (plan.launch, plan.given_up) == ([], ["quant"])
    assert str(plan) == "gave up on: quant"


def test_new_work_of_the_same_workspace_starts_counting_again() -> None:
    plan = runs_to_launch([Due("quant", 11, "d2")], set(), {"d1": Past(failed=MAX_ATTEMPTS)})
    assert [it.attempt for it in plan.launch] == [1]


def test_a_tick_requests_at_most_a_hundred_runs_and_names_the_rest() -> None:
    plan = runs_to_launch([Due(f"w{number}", 1, f"d{number}") for number in range(102)], set(), {})
    assert (len(plan.launch), plan.later) == (100, ["w100", "w101"])
    assert str(plan).endswith("next time: w100, w101")


def test_what_a_run_went_through_and_left_is_not_requested_for_ever() -> None:
    plan = runs_to_launch([TEN], set(), {"d1": Past(succeeded=1)})
    assert (plan.launch, plan.settled) == ([], ["quant"])


def test_what_was_written_since_the_last_look_is_news() -> None:
    assert is_news(Look("tunes 5", 100), "tunes 6", 101)
    assert not is_news(Look("tunes 5", 100), "tunes 5", 101)


def test_no_look_yet_no_counters_and_a_look_long_ago_are_reasons_to_look() -> None:
    assert is_news(None, "tunes 5", 101)
    assert is_news(Look("tunes 5", 100), None, 101)
    assert is_news(Look("tunes 5", 100), "tunes 5", 101 + LOOK_ANYWAY_AFTER_SECONDS)


def test_a_run_without_a_session_is_lost_once_it_was_silent_for_long() -> None:
    now = 10_000.0
    heard = {
        f"{name} {has_begun}": Heard(now - limit - over, has_begun)
        for has_begun, limit in ((True, SILENCE_SECONDS), (False, START_SECONDS))
        for name, over in (("old", 1), ("new", -1))
    }
    assert silent_runs(heard, now) == ["old True", "old False"]


def test_a_file_that_still_grows_is_left_for_the_next_tick() -> None:
    before = {"AAPL_1d.csv": Seen(100, 5), "MSFT_1d.csv": Seen(100, 5)}
    now = {"AAPL_1d.csv": Seen(150, 6), "MSFT_1d.csv": Seen(100, 5), "IBM_1d.csv": Seen(1, 1)}
    assert still_files(now, before) == ["MSFT_1d.csv"]


def test_a_digest_names_the_parts_and_not_their_order() -> None:
    assert digest_of(["a", "b"]) == digest_of(["b", "a"]) != digest_of(["a"])
