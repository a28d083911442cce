"""Charts: what is drawn is where the numbers say."""

import re
from xml.etree import ElementTree

import pytest

from trivet.study.report import charts
from trivet.study.report.svg import Scale, element, marker
from trivet.study.results import Bounds, Comparison, Estimate, Interval


def estimate(value: float, half: float = 0.05) -> Estimate:
    interval = Interval(low=value - half, high=value + half, level=0.95, method="t")
    return Estimate(value=value, interval=interval)


def parse(picture: object) -> ElementTree.Element:
    return ElementTree.fromstring(str(picture))


def by_class(root: ElementTree.Element, word: str) -> list[ElementTree.Element]:
    return [node for node in root.iter() if word in (node.get("class") or "").split()]


def numbers(node: ElementTree.Element, *names: str) -> list[float]:
    return [float(node.get(name) or "nan") for name in names]


def test_a_strip_shows_value_interval_bounds_and_reference():
    scale = Scale(0, 1, 10, 110)
    root = parse(charts.interval_strip(0, "base", estimate(0.5), Bounds(low=0.4, high=0.7), 0.3, scale))
    assert numbers(by_class(root, "mark")[0], "cx") == [60]
    assert numbers(by_class(root, "whisker")[0], "x1", "x2") == [55, 65]
    assert numbers(by_class(root, "bounds")[0], "x", "width") == [50, 30]
    assert numbers(by_class(root, "reference")[0], "x1") == [40]
    assert root.find("title").text == "base: 50.0 [45.0, 55.0]"


def test_a_number_that_is_missing_draws_nothing():
    missing = Estimate(value=None, reason="no judge")
    assert charts.interval_strip(0, "base", missing, None, None, Scale(0, 1, 0, 100)) == ""
    row = Comparison(
        leg="helpful", system="a", baseline="b", difference=missing, family="f",
        family_size=1, n_questions=0, n_clusters=0, n_dropped=0,
    )  # fmt: skip
    assert charts.difference_strip(0, row, Scale(-1, 1, 0, 100)) == ""
    assert charts.all_legs([(0, "a", [None, missing], True)], ["x", "y"]) == ""
    assert charts.label_bar({}, 0) == ""


def test_the_front_is_a_step_line_through_the_systems_on_it():
    points = [
        charts.Point(0, "low", estimate(0.2), estimate(0.2), on_front=False),
        charts.Point(1, "left", estimate(0.3), estimate(0.8), on_front=True),
        charts.Point(2, "right", estimate(0.7), estimate(0.4), on_front=True),
    ]
    root = parse(charts.pareto_plot(points, charts.Axis("helpful"), charts.Axis("honest")))
    corners = [
        tuple(map(float, pair.split(",")))
        for pair in re.findall(r"[\d.]+,[\d.]+", by_class(root, "front")[0].get("d"))
    ]
    assert len(corners) == 5
    across = [x for x, _ in corners]
    down = [y for _, y in corners]
    assert across == sorted(across) and down == sorted(down), "pixels grow to the right and downwards"
    assert root.find("title").text == "helpful against honest; on the front: left, right"
    strong = {node.text for node in by_class(root, "strong")}
    assert strong == {"left", "right"}
    assert len(by_class(root, "cross")) == 6


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_one_system_alone_can_be_drawn(value):
    point = charts.Point(0, "only", Estimate(value=value), Estimate(value=value), on_front=True)
    root = parse(charts.pareto_plot([point], charts.Axis("x"), charts.Axis("y")))
    assert len(by_class(root, "mark")) == 1


def test_all_legs_has_a_gap_where_a_leg_is_missing():
    missing = Estimate(value=None, reason="too few")
    rows = [(0, "a", [estimate(0.2), estimate(0.4), estimate(0.6)], True)]
    rows.append((1, "b", [estimate(0.3), missing, estimate(0.5)], False))
    root = parse(charts.all_legs(rows, ["helpful", "honest", "harmless"]))
    assert [len(node.get("points").split()) for node in by_class(root, "path")] == [3, 2]
    assert len(by_class(root, "off")) == 1
    assert [node.text for node in by_class(root, "axis")] == ["helpful (%)", "honest (%)", "harmless (%)"]


def test_a_difference_shades_what_could_not_have_been_found():
    row = Comparison(
        leg="helpful", system="a", baseline="b", difference=estimate(0.1), family="f", family_size=1,
        n_questions=9, n_clusters=9, n_dropped=0, minimum_detectable_effect=0.2,
    )  # fmt: skip
    root = parse(charts.difference_strip(0, row, Scale(-0.5, 0.5, 0, 100)))
    assert numbers(by_class(root, "zero")[0], "x1") == [50]
    assert numbers(by_class(root, "bounds")[0], "x", "width") == [30, 40]
    assert numbers(by_class(root, "mark")[0], "cx") == [60]


def test_a_bar_of_labels_fills_its_width_in_a_fixed_order():
    root = parse(charts.label_bar({"wrong": 5, "correct": 3, "idk": 0}, 2))
    titles = [node.find("title").text for node in by_class(root, "part")]
    assert titles == ["correct: 3 of 10", "wrong: 5 of 10", "could not score: 2 of 10"]
    widths = [float(node.get("width")) for node in by_class(root, "part")]
    assert widths == [59, 99, 39]
    assert list(charts.label_colours(["zebra", "idk", "apple", "correct"])) == [
        "correct",
        "idk",
        "apple",
        "zebra",
    ]


def test_systems_differ_in_colour_and_shape():
    looks = {str(marker(index, 0, 0)) for index in range(56)}
    assert len(looks) == 56


def test_names_are_escaped_and_shortened_in_the_middle():
    name = "<script>alert(1)</script>\x00\u202e"
    point = charts.Point(0, name, estimate(0.2), estimate(0.2), on_front=True)
    root = parse(charts.pareto_plot([point], charts.Axis("x"), charts.Axis("y")))
    assert "script" not in {node.tag for node in root.iter()}
    assert "␀[U+202E]" in root.find("title").text
    assert charts.short("system-with-a-long-name-7") == "system-wi…ong-name-7"
    assert len(charts.short("x" * 64)) == 20
    assert str(element("text", '"<&', class_='"x')) == '<text class="&#34;x">&#34;&lt;&amp;</text>'
