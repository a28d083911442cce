import json

import pytest
from pydantic import ValidationError

from trivet.errors import StoreError
from trivet.study.results import Analysis, Bounds, Estimate, Interval, LegResult, StudyResults


def _results() -> StudyResults:
    estimate = Estimate(
        value=0.5, standard_error=0.1, interval=Interval(low=0.3, high=0.7, level=0.95, method="t")
    )
    leg = LegResult(system="base", leg="helpful", estimate=estimate, bounds=Bounds(low=0.4, high=0.6))
    analysis = Analysis(reference="base", legs=[leg], warnings=["from the analysis"])
    return StudyResults.from_analysis(
        analysis, study="s", seed=1, created="2026-01-01T00:00:00Z", warnings=["from the study"]
    )


def test_results_survive_a_round_trip_through_a_file(tmp_path):
    results = _results()
    results.write(tmp_path / "results.json")
    assert StudyResults.read(tmp_path / "results.json") == results
    assert results.warnings == ["from the study", "from the analysis"]
    assert results.leg("base", "helpful") is results.legs[0]
    assert results.leg("base", "honest") is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_no_number_is_nan_or_infinite(bad):
    with pytest.raises(ValidationError):
        Estimate(value=bad)
    with pytest.raises(ValidationError):
        Interval(low=0.0, high=bad, level=0.95, method="t")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "not the results of a study"),
        ('{"reference": "base"}', "study: Field required"),
    ],
)
def test_a_bad_file_gives_one_clear_message(tmp_path, content, message):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StoreError) as error:
        StudyResults.read(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_later_format_is_refused(tmp_path):
    document = _results().to_json() | {"format": 99}
    (tmp_path / "results.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match="update Trivet"):
        StudyResults.read(tmp_path / "results.json")
