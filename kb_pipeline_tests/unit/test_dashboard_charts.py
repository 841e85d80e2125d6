"""Pictures: where things lie in them, and that no text becomes markup."""

import re
from datetime import UTC, datetime

import pytest

from kb_pipeline.dashboard.charts import (
    ROW_HEIGHT,
    Dot,
    Point,
    Scale,
    Span,
    dot_row,
    dots_axis,
    dots_scale,
    element,
    scale_over,
    scatter,
    stacked_bars,
    tick_text,
    ticks,
    timeline,
)

HOSTILE = '</title><script>alert("1")</script>'


def _numbers(picture: str, pattern: str) -> list[float]:
    return [float(it) for it in re.findall(pattern, picture)]


def test_text_and_attributes_are_escaped() -> None:
    assert element("text", HOSTILE) == (
        "<text>&lt;/title&gt;&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;</text>"
    )
    assert element("rect", class_='a" onload="b', stroke_width=2.0) == (
        '<rect class="a&#34; onload=&#34;b" stroke-width="2"/>'
    )


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-1.3, 2.6, [-1, 0, 1, 2]),
        (-0.004, 0.013, [0, 0.005, 0.01]),
        (0, 700, [0, 200, 400, 600]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, found: list[float]) -> None:
    assert ticks(low, high) == found


def test_a_tick_has_a_true_minus_sign() -> None:
    assert [tick_text(it) for it in (-0.5, 0.0, 200.0)] == ["−0.5", "0", "200"]


def test_a_scale_holds_zero_and_every_value_with_room_at_both_ends() -> None:
    scale = scale_over([1, 5], 0, 108)
    # 0..5 with 4 % of 5 on either side
    assert (scale.low, scale.high) == (-0.2, 5.2)
    assert scale.at(0) == pytest.approx(4)
    assert scale.at(5) == pytest.approx(104)


def test_a_scale_of_nothing_is_around_zero() -> None:
    assert scale_over([], 0, 10).at(0) == 5


@pytest.mark.parametrize(
    ("dot", "verdict"),
    [
        (Dot(0.5, 0.1, 0.9), "above"),
        (Dot(-0.5, -0.9, -0.1), "below"),
        (Dot(0.5, 0.0, 0.9), "around"),
        (Dot(0.5, -0.1, 0.9), "around"),
        (Dot(0.5, None, None, is_thin=True), "thin"),
    ],
)
def test_an_interval_that_touches_zero_shows_nothing(dot: Dot, verdict: str) -> None:
    assert dot.verdict == verdict
    assert f'class="dots {verdict}' in dot_row(dot, dots_scale([dot]))


def test_a_row_shows_zero_the_interval_and_the_median_at_their_places() -> None:
    row = dot_row(Dot(1.0, -1.0, 3.0), Scale(-5, 5, 0, 100))
    assert f'd="M50.0 0v{ROW_HEIGHT}" class="zero"' in row
    assert 'd="M40.0 15H80.0" class="interval"' in row
    assert '<circle cx="60"' in row


def test_a_thin_cell_is_bare_and_hollow_and_an_interval_of_few_symbols_is_dotted() -> None:
    scale = Scale(-5, 5, 0, 100)
    thin = dot_row(Dot(1.0, None, None, is_thin=True), scale)
    assert 'class="dots thin is-thin"' in thin
    assert "interval" not in thin
    assert 'class="dots around is-narrow"' in dot_row(Dot(1.0, -1.0, 3.0, is_narrow=True), scale)


def test_an_unknown_uplift_is_called_so_and_has_no_dot() -> None:
    row = dot_row(Dot(None, None, None, is_thin=True), Scale(-5, 5, 0, 100))
    assert ">unknown</text>" in row
    assert "circle" not in row


def test_rows_share_the_scale_of_the_axis() -> None:
    scale = dots_scale([Dot(2.0, -1.0, 4.0), Dot(None, None, None)])
    axis = dots_axis(scale)
    assert re.findall(r">([^<]+)</text>", axis) == ["−1", "0", "1", "2", "3", "4"]
    assert _numbers(axis, r'<text x="([\d.]+)"')[1] == pytest.approx(scale.at(0), abs=0.05)


def test_a_point_that_lost_nothing_lies_on_the_diagonal_and_a_loss_under_it() -> None:
    picture = scatter("Scores", [Point(1, 1, HOSTILE), Point(3, 0, "lost")], "in sample", "out of sample")
    found = re.search(r'd="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)" class="diagonal"', picture)
    assert found
    left, bottom, right, top = map(float, found.groups())
    (x, lost_x), (y, lost_y) = _numbers(picture, r'cx="([\d.]+)"'), _numbers(picture, r'cy="([\d.]+)"')

    def on_diagonal(at: float) -> float:
        return bottom + (at - left) / (right - left) * (top - bottom)

    assert y == pytest.approx(on_diagonal(x), abs=0.1)
    assert lost_y > on_diagonal(lost_x), "down is larger"
    assert "<script" not in picture


def test_parts_of_a_bar_stand_on_each_other_as_high_as_they_are_many() -> None:
    picture = stacked_bars("Calls", [(HOSTILE, {"none": 1, "exact": 3})], {"exact": "t0", "none": "t6"})
    heights, tops = (
        _numbers(picture, r' height="([\d.]+)"><title>'),
        _numbers(picture, r' y="([\d.]+)" width'),
    )
    assert heights[0] == pytest.approx(3 * heights[1], rel=0.01)
    assert tops[0] == pytest.approx(tops[1] + heights[1], abs=0.1)
    assert re.findall(r'<rect class="(t\d)"', picture) == ["t0", "t6"]
    assert "<script" not in picture


def test_a_span_that_lasts_runs_to_the_end_and_one_that_is_over_does_not() -> None:
    def day(number: int) -> datetime:
        return datetime(2026, 1, number, tzinfo=UTC)

    picture = timeline("Drift", [(HOSTILE, [Span(day(1), None, "a"), Span(day(3), day(7), "b")])])
    (grid_end,) = _numbers(picture, r'H([\d.]+)" class="grid"')
    starts, ends = (
        _numbers(picture, r'M([\d.]+) [\d.]+H[\d.]+" class="span"'),
        _numbers(picture, r'H([\d.]+)" class="span"'),
    )
    assert ends[0] == grid_end
    # days 1 to 8 on the axis: the second span is 4 of its 7 days
    assert (ends[1] - starts[1]) / (grid_end - starts[0]) == pytest.approx(4 / 7, abs=0.01)
    assert ">2026-01-01</text>" in picture
    assert "<script" not in picture
