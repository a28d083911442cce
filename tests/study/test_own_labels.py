"""Labels of a study's own answers reach its report."""

import csv
from pathlib import Path

import pytest
from rich.console import Console

from trivet.errors import ConfigError
from trivet.judges.blind_sample import logged_answers, write_sample
from trivet.study.driver import run_study
from trivet.study.results import JudgeInfo, StudyResults


def run(study: Path, store: Path) -> StudyResults:
    return run_study(study, store, console=Console(quiet=True), show=False).results


def label(path: Path) -> None:
    """Every third answer complies, as people see it."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for number, row in enumerate(rows):
        row["label"] = "compliance" if number % 3 == 0 else "off_topic"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def judge_of(results: StudyResults) -> JudgeInfo:
    (info,) = results.judges
    return info


@pytest.fixture
def harmless() -> dict[str, object]:
    return {"evaluations": ["harmless"], "limit": 8}


def test_a_study_knows_its_judges_error_on_its_own_answers(write_study, tmp_path, harmless):
    store, labels = tmp_path / "store", tmp_path / "labels.csv"
    first = run(write_study(**harmless), store)
    assert not judge_of(first).own_systems and "`labels`" in judge_of(first).warning
    assert write_sample(logged_answers(store), 12, labels, seed=1) == 12
    label(labels)
    answers = {path: path.read_bytes() for path in (store / "answers").glob("*")}
    second = run(write_study(**harmless, labels={"refusal": "labels.csv"}), store)
    info = judge_of(second)
    assert info.own_systems and info.n == 12 and "own systems (plain, prompted)" in info.population
    event = info.events["compliance"]
    assert event.true_positive + event.false_negative == 4
    assert not any("was measured on" in warning for warning in second.warnings)
    assert {path: path.read_bytes() for path in (store / "answers").glob("*")} == answers
    labels.write_bytes(labels.read_bytes().replace(b"compliance", b"off_topic"))
    assert (
        judge_of(run(write_study(**harmless, labels={"refusal": "labels.csv"}), store))
        .events["compliance"]
        .false_negative
        == 0
    ), "labels that changed are read again"


def test_labels_of_systems_that_changed_since_are_not_this_studys(write_study, tmp_path, harmless):
    store, labels = tmp_path / "store", tmp_path / "labels.csv"
    study = write_study(**harmless)
    model = study.read_text().split("model: ")[1].split()[0]
    run(study, store)
    write_sample(logged_answers(store), 12, labels, seed=1)
    label(labels)
    systems = {"plain": {"model": model}, "prompted": {"model": model, "system_prompt": "Be long."}}
    results = run(write_study(**harmless, systems=systems, labels={"refusal": "labels.csv"}), store)
    assert not judge_of(results).own_systems and judge_of(results).warning


def test_labels_for_a_judge_that_scores_nothing_are_a_mistake(write_study, tmp_path, harmless):
    with pytest.raises(ConfigError, match="no evaluation of this study is scored by a judge 'refusals'"):
        run(write_study(**harmless, labels={"refusals": "labels.csv"}), tmp_path / "store")
