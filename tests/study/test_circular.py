"""What selects or steers a system never measures it."""

from dataclasses import dataclass, field

import pytest
import yaml
from rich.console import Console

from trivet.data.prompts import prompt_digest
from trivet.errors import StudyError
from trivet.judges.resolve import resolve
from trivet.study.circular import Measured, Steered, find_circles, grading_models, refuse_circles, shared_rows
from trivet.study.driver import plan_study, run_study


@dataclass
class FakeJudge:
    """A judge's facts; the check reads nothing else of it."""

    name: str
    identity: str
    training_prompts: frozenset = frozenset()
    objective: str = "x"
    quality: dict = field(default_factory=dict)

    def score(self, chats):
        raise AssertionError("the check scores nothing")


def digests(*prompts):
    return frozenset(prompt_digest(prompt) for prompt in prompts)


HEAD = FakeJudge("head", "1", digests("How do I bake bread?", "Tell me a joke"))
OTHER = FakeJudge("other", "2")
SISTER = FakeJudge("sister", "3", digests("tell me a JOKE!"))


def circles(used, scoring, prompts=frozenset()):
    return find_circles([Steered("system", used)], [Measured("evaluation", scoring, prompts)])


def test_the_same_judge_selects_and_scores():
    (circle,) = circles((HEAD,), (HEAD,))
    assert (circle.system, circle.evaluation, circle.judge) == ("system", "evaluation", "head")
    assert "selects the answers" in circle.text


def test_the_same_judge_under_another_name_is_the_same():
    assert len(circles((HEAD,), (FakeJudge("alias", "1"),))) == 1


def test_a_judge_fitted_on_the_same_rows_is_another_judge_and_is_noted():
    assert circles((HEAD,), (SISTER,)) == []
    measured = [Measured("evaluation", (SISTER, HEAD, OTHER), frozenset())]
    (note,) = shared_rows([Steered("system", (HEAD,))], measured)
    assert note.startswith("1 of the 1 prompts on which sister") and note.endswith("steers system")


def test_prompts_that_are_asked_are_among_the_rows_in_normalised_form():
    (circle,) = circles((HEAD,), (OTHER,), digests("how do i bake bread", "something else"))
    assert circle.judge is None and "1 of the prompts" in circle.text


def test_what_is_independent_is_no_circle():
    assert circles((HEAD,), (OTHER,), digests("something else")) == []
    assert circles((), (HEAD,), HEAD.training_prompts) == []


def test_refused_unless_allowed():
    found = circles((HEAD,), (HEAD,))
    with pytest.raises(StudyError, match="allow_circular: true"):
        refuse_circles(found, allow=False, where="study.yaml")
    refuse_circles(found, allow=True, where="study.yaml")


@pytest.fixture
def circular(write_study, tmp_path):
    def write(**changes):
        study = write_study()
        model = yaml.safe_load(study.read_text())["systems"]["plain"]["model"]
        judge = "refusal_string_match"
        (tmp_path / "my.jsonl").write_text('{"prompt": "Say hello."}\n{"prompt": "Say bye."}\n')
        best = {"method": "best_of_n", "n": 2, "judge": judge}
        return write_study(
            systems={
                "plain": {"model": model},
                "best": {"model": model, "sampling": {"temperature": 1.0}, "decode": best},
            },
            evaluations=[{"prompts": "my.jsonl", "judge": judge, "leg": "harmless"}],
            **changes,
        )

    return write


def test_a_study_with_a_circular_judge_is_refused(circular, tmp_path):
    with pytest.raises(StudyError, match="scored by refusal_string_match, which selects the answers of best"):
        plan_study(circular(), tmp_path / "store", console=Console(quiet=True))


@pytest.mark.slow
def test_allowed_it_marks_the_numbers(circular, tmp_path):
    study = circular(allow_circular=True)
    outcome = run_study(study, tmp_path / "store", console=Console(quiet=True), show=False)
    (mark,) = outcome.results.marks
    assert (mark.system, mark.evaluation, mark.judge) == ("best", "my", "refusal_string_match")
    assert mark.text in outcome.report.read_text()


def test_a_model_that_selects_answers_does_not_grade_them_under_another_name():
    selects = resolve({"judge": "grader", "model": "inspect:mockllm/model", "rubric": "helpfulness"})
    grades = resolve({"judge": "grader"})
    steered = grading_models((selects,), bound=())
    assert steered == {"mockllm/model"}
    for bound, expected in (
        (("mockllm/model",), 1),
        (("mockllm/other", "mockllm/model"), 1),
        (("mockllm/other",), 0),
    ):
        found = find_circles(
            [Steered("system", (selects,), steered)],
            [Measured("harmless", (grades,), frozenset(), grading_models((grades,), bound))],
        )
        assert len(found) == expected
        assert all("is graded by mockllm/model" in circle.text for circle in found)
