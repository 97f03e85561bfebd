"""Scales of the charts of a report."""

import pytest

from runner.html_report.chart import Line, line_chart


@pytest.mark.parametrize(
    ("values", "lowest"), [([(0, -4.6e-10), (1, 10.0)], "0"), ([(0, -3.0), (1, 10.0)], "-5")]
)
def test_the_axis_ends_at_zero_unless_values_are_negative_beyond_rounding(values, lowest):
    chart = line_chart("loss", [Line("loss", values)])
    assert chart.y_ticks[0].label == lowest
