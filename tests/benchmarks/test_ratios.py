"""What must become true, computed from rows whose ratios are known."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.compare.publish import _BEGIN, _END, into_readme
from benchmarks.compare.ratios import (
    GOALS,
    Goal,
    Missing,
    Table,
    cost_of,
    kept_promise,
    never_slower,
    predicted,
    step_overhead,
)
from benchmarks.compare.report import differences, failures, markdown, medians, ratios
from benchmarks.models.tasks import TASKS


def row(system: str, rate: float, *, repetition: int = 0, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "kind": "speed",
        "system": system,
        "key": "a cell",
        "repetition": repetition,
        "task": "code",
        "concurrency": 1,
        "temperature": 0.0,
        "length": 0,
        "rate": rate,
        "decode_rate": rate,
        "acceptance": 1.0,
        "first_ms": 10.0,
        "parts": {},
        "answers": [[1, 2, 3]],
    }
    return made | more


def test_a_ratio_is_taken_within_repetitions() -> None:
    rows = [
        *(row("rasd", rate, repetition=i) for i, rate in enumerate((200, 100, 30))),
        *(row("off", rate, repetition=i) for i, rate in enumerate((100, 40, 10))),
    ]
    assert Table(rows).ratio("rasd", "off", "code", 1) == pytest.approx(2.5)


def test_of_several_the_fastest_counts() -> None:
    rows = [row("rasd", 300), row("vllm", 100), row("vllm-suffix", 200)]
    assert Table(rows).ratio("rasd", ("vllm", "vllm-suffix", "vllm-ngram"), "code", 1) == 1.5


def test_rows_at_a_temperature_are_no_part_of_greedy_ratios() -> None:
    rows = [row("rasd", 300), row("off", 100), row("rasd", 1, temperature=1.0)]
    assert Table(rows).ratio("rasd", "off", "code", 1) == 3


def test_what_was_not_measured_is_said() -> None:
    with pytest.raises(Missing, match="vllm on code at 1"):
        Table([row("rasd", 1)]).ratio("rasd", "vllm", "code", 1)
    values = ratios([row("rasd", 1)])
    assert all(str(value).startswith("not measured") for value in values.values())
    assert failures(values) == []


def test_over_tasks_is_the_median() -> None:
    rows = [row("off", 100, task=task) for task in TASKS]
    rows += [
        row("rasd", rate, task=task) for task, rate in zip(TASKS, (100, 200, 300, 400), strict=True)
    ]
    assert Table(rows).over_tasks("rasd", "off", 1) == 2.5


def test_never_slower_is_the_worst_cell_and_needs_random_text() -> None:
    rows = [row("off", 100), row("rasd", 150)]
    with pytest.raises(Missing, match="random"):
        never_slower(Table(rows))
    rows += [row(s, r, task="random", temperature=100.0) for s, r in (("off", 100), ("rasd", 97))]
    assert never_slower(Table(rows)) == 0.97


def test_costs_between_points_are_straight_and_beyond_them_level() -> None:
    curve = {1.0: 10.0, 16.0: 12.0, 32.0: 20.0}
    assert [cost_of(curve, n) for n in (0.5, 1, 8.5, 24, 99)] == [10, 10, 11, 16, 20]


def test_a_promise_is_acceptance_over_costs() -> None:
    parts = {"nodes": 15.0, "draft": 3.0}
    rows = [
        row("off", 90),
        row("rasd", 200, acceptance=4.0, parts=parts),
        *(
            {"kind": "curve", "system": "off", "value": n, "ms": ms}
            for n, ms in ((1, 10), (16, 12))
        ),
    ]
    table = Table(rows)
    assert predicted(table, "rasd", "code") == pytest.approx(4 * 10 / (12 + 3))
    assert kept_promise(table, "rasd", "code") == pytest.approx(200 / 90 / (40 / 15))


def test_overhead_of_a_step_leaves_its_draft_out() -> None:
    forwards = (10.0, 10.0, 20.0, 5.0)
    drafts = (4.0, 19.0, 1.0, 7.0)  # within a row, whatever the others are
    rows = [
        row("rasd", 1, task=task, parts={"step": 1.1 * f + d, "draft": d, "forward": f})
        for task, f, d in zip(TASKS, forwards, drafts, strict=True)
    ]
    assert step_overhead(Table(rows), "rasd") == pytest.approx(1.1)


def test_goals_have_names_of_their_own_and_know_their_bounds() -> None:
    assert len({goal.name for goal in GOALS}) == len(GOALS)
    assert Goal("", never_slower, least=1.0).met(1.0) and not Goal("", never_slower, least=1).met(
        0.9
    )
    assert Goal("", never_slower, most=1.0).met(1.0) and not Goal("", never_slower, most=1).met(1.1)
    assert Goal("", never_slower).met(0.0)


def test_medians_tell_their_spread() -> None:
    rows = [
        row("off", rate, repetition=i, parts={"step": rate}) for i, rate in enumerate((3, 1, 2))
    ]
    (found,) = medians([*rows, {"kind": "start", "system": "off", "value": 1}])
    assert (found["rate"], found["rate_spread"], found["repetitions"]) == (2, [1, 3], 3)
    assert found["parts"] == {"step": 2}
    assert markdown([found], 1).splitlines()[-1] == "| off | 2 | 2 | 1.00 | 10 |"


def test_differing_answers_are_counted_up_to_their_first_difference() -> None:
    rows = [
        row("off", 1, answers=[[1, 2, 3], [4, 5, 6]]),
        row("vllm", 1, answers=[[1, 2, 3], [4, 9, 6]]),
        row("vllm", 1, answers=[[0]], temperature=1.0),
        row("http-off", 1, answers=[[0, 0, 0], [0, 0, 0]]),
    ]
    assert differences(rows) == {"vllm": {"answers": 2, "differ": 1, "tokens": 6, "agreeing": 4}}


def test_the_readme_keeps_what_stands_around_the_section() -> None:
    text = f"a\n{_BEGIN}\nold\n{_END}\nb\n"
    once = into_readme(text, "new")
    assert once == f"a\n{_BEGIN}\nnew\n{_END}\nb\n" == into_readme(once, "new")
    with pytest.raises(ValueError, match="lacks"):
        into_readme("a", "new")
