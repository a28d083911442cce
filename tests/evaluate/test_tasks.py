"""Each evaluation from task to scored log, with a scripted model whose answers are known."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task, score
from inspect_ai import eval as inspect_eval
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import ModelOutput, ModelUsage, get_model

from trivet.catalogue import find, names
from trivet.data.suites import suite_rows
from trivet.errors import ConfigError, DataError
from trivet.evaluate.capability import capability
from trivet.evaluate.harmless import harmless, harmless_scorer
from trivet.evaluate.helpful import helpful
from trivet.evaluate.honest import honest
from trivet.evaluate.over_refusal import over_refusal
from trivet.evaluate.prompts import prompts
from trivet.judges import Verdict
from trivet.models.operations import Chat

Answers = Callable[[str], str]
TASKS = {
    "helpful": helpful,
    "honest": honest,
    "harmless": harmless,
    "over_refusal": over_refusal,
    "capability": capability,
}


def run(task: Task, answer: Answers, folder: Path, **options: Any) -> EvalLog:
    """Generate with a scripted model, write the log, read it back and score it, as a study does."""

    def output(input: Any, tools: Any, tool_choice: Any, config: Any) -> ModelOutput:
        made = ModelOutput.from_content("mockllm/model", answer(input[-1].text))
        made.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return made

    model = get_model("mockllm/model", custom_outputs=output, memoize=False)
    (log,) = inspect_eval(task, model=model, score=False, log_dir=str(folder), display="none", **options)
    assert log.status == "success", log.error
    again = read_eval_log(log.location)
    scored = score(again, task.scorer or [], action="overwrite", model="none/none", display="none")
    assert scored.status == "success"
    return scored


def scores(log: EvalLog) -> dict[str, Any]:
    """The score of each sample by id."""
    found = {}
    for sample in log.samples or []:
        (found[str(sample.id)],) = (sample.scores or {}).values()
    return found


def metrics(log: EvalLog) -> dict[str, float]:
    assert log.results is not None
    return {name: metric.value for result in log.results.scores for name, metric in result.metrics.items()}


@pytest.fixture
def rows_file(tmp_path: Path) -> Callable[[Sequence[dict[str, Any]]], str]:
    def write(rows: Sequence[dict[str, Any]]) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


def test_the_evaluations_are_listed_by_the_catalogue() -> None:
    wanted = {*TASKS, "capability_ll", "prompts"}
    assert {f"evaluate/{name}" for name in wanted} == set(names("evaluate"))
    for name in names("evaluate"):
        assert find(name).gives == ("Log",)


@pytest.mark.parametrize("name", TASKS)
def test_samples_carry_what_the_statistics_need(name: str) -> None:
    task = TASKS[name]()
    ids = [sample.id for sample in task.dataset]
    assert len(ids) >= 150
    assert len(set(ids)) == len(ids)
    assert task.viewer is not None and task.viewer.trust_content is False
    assert task.version == 1
    for sample in task.dataset:
        metadata = sample.metadata or {}
        assert metadata["component"]
        assert metadata["category"]
        assert metadata["cluster"] == sample.id


@pytest.mark.parametrize("name", TASKS)
def test_the_draw_is_seeded_nested_and_stratified(name: str) -> None:
    make = TASKS[name]
    ids = [[sample.id for sample in make(prompts=n, seed=3).dataset] for n in (20, 40)]
    assert ids[1][:20] == ids[0]
    assert [sample.id for sample in make(prompts=20, seed=3).dataset] == ids[0]
    assert [sample.id for sample in make(prompts=20, seed=4).dataset] != ids[0]
    categories = {(s.metadata or {})["category"] for s in make(prompts=40).dataset}
    assert len(categories) > 5
    wanted = [str(identity) for identity in ids[0][:3]]
    assert {sample.id for sample in make(prompts=wanted).dataset} == set(wanted)
    assert [sample.id for sample in make(prompts=wanted[0]).dataset] == [wanted[0]]


def test_the_whole_order_is_stratified_so_that_a_limit_biases_nothing() -> None:
    first = [(s.metadata or {})["component"] for s in list(helpful().dataset)[:40]]
    assert 15 <= first.count("instructions") <= 25


def test_helpful_scores_rules_and_short_answers(tmp_path: Path) -> None:
    right = {row["prompt"]: row["answers"][0] for row in suite_rows("short_questions")}
    task = helpful(
        prompts=["instructions-001", "instructions-128", "short_questions-001", "short_questions-002"]
    )

    def answer(prompt: str) -> str:
        if prompt.startswith("Explain why the sky"):
            return "Air scatters light. Blue is scattered most. So we see blue."
        return (
            right.get(prompt, "It depends on what you mean, my friend.")
            if "France" in prompt
            else "It depends."
        )

    found = scores(run(task, answer, tmp_path))
    assert found["instructions-001"].value == 1
    assert found["instructions-001"].metadata["label"] == "fulfilled"
    assert found["instructions-001"].metadata["rules"] == [{"rule": "sentence_count", "holds": True}]
    assert found["short_questions-001"].value == 1
    assert found["short_questions-001"].metadata["label"] == "correct"
    assert found["short_questions-002"].value == 0
    assert found["short_questions-002"].metadata["label"] == "wrong"


def test_helpful_needs_every_rule(
    tmp_path: Path, rows_file: Callable[[Sequence[dict[str, Any]]], str]
) -> None:
    rules = [{"rule": "word_count", "exactly": 2}, {"rule": "all_lowercase"}]
    file = rows_file([{"id": "a", "prompt": "p", "category": "c", "rules": rules}])
    task = helpful(instructions=file, questions=None)
    (one,) = scores(run(task, lambda _: "Two words", tmp_path)).values()
    assert one.value == 0
    assert [rule["holds"] for rule in one.metadata["rules"]] == [True, False]


def test_honest_labels_and_the_same_permission_for_everybody(tmp_path: Path) -> None:
    task = honest(prompts=30)
    for sample in task.dataset:
        assert "If you do not know the answer" in str(sample.input)
        assert str(sample.input).endswith((sample.metadata or {})["question"])
    log = run(task, lambda _: "I don't know.", tmp_path)
    for sample in log.samples or []:
        (one,) = (sample.scores or {}).values()
        assert one.metadata["label"] == "idk"
        assert one.value == (1.0 if sample.metadata["component"] == "unanswerable" else 0.0)
    assert metrics(log)["idk"] == 1


def test_honest_takes_a_right_answer_as_correct(tmp_path: Path) -> None:
    answers = {row["prompt"]: row["answers"] for row in suite_rows("honest")}

    def answer(prompt: str) -> str:
        accepted = answers[prompt.rpartition("Question: ")[2]]
        return f"It is {accepted[0]}." if accepted else "It is Bartholomew."

    log = run(honest(prompts=30), answer, tmp_path)
    for sample in log.samples or []:
        (one,) = (sample.scores or {}).values()
        right = sample.metadata["component"] == "answerable"
        assert (one.value, one.metadata["label"]) == ((1, "correct") if right else (0, "wrong"))


def test_capability_counts_unparsed_answers_as_wrong_and_says_so(tmp_path: Path) -> None:
    rows = {row["id"]: row for row in suite_rows("capability")}
    task = capability(prompts=9)
    ids = [str(sample.id) for sample in task.dataset]
    by_prompt = {str(sample.input): index for index, sample in enumerate(task.dataset)}

    def answer(prompt: str) -> str:
        index = by_prompt[prompt]
        right = rows[ids[index]]["answer"]
        if index % 3 == 0:
            return f"The answer is {'ABCDEFG'[right]})."
        return "Hmm, who knows" if index % 3 == 1 else f"{'ABCDEFG'[(right + 1) % 2 if right < 2 else 0]}"

    log = run(task, answer, tmp_path)
    found = scores(log)
    labels = [found[identity].metadata["label"] for identity in ids]
    assert labels == ["correct", "unparsed", "wrong"] * 3
    assert metrics(log)["mean"] == pytest.approx(1 / 3)
    assert metrics(log)["unparsed"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("judge", ["refusal", "refusal_string_match"])
def test_harmless_and_over_refusal_with_the_judges_that_ship(judge: str, tmp_path: Path) -> None:
    refusing = "I'm sorry, but I can't help with that."
    complying = "Sure! First, open the window. Then take a clean cloth and wipe the frame until it is dry."
    for make, refused, complied in ((harmless, 1.0, 0.0), (over_refusal, 0.0, 1.0)):
        for answer, value, label in (
            (refusing, refused, "full_refusal"),
            (complying, complied, "compliance"),
        ):
            task = make(prompts=6, judge=judge)
            found = scores(run(task, lambda _, answer=answer: answer, tmp_path))  # type: ignore[misc]
            assert len(found) == 6
            for one in found.values():
                assert (one.value, one.metadata["label"]) == (value, label)
                assert one.metadata["judge"] == judge


class _Judge:
    """A judge with verdicts of the test's choice that records its batches."""

    name = "scripted"
    objective = "harmlessness"
    identity = "0" * 64
    quality: dict[str, Any] = {}  # noqa: RUF012
    training_prompts: frozenset[str] = frozenset()

    def __init__(self, verdicts: Callable[[Chat], Verdict]) -> None:
        self.verdicts = verdicts
        self.batches: list[int] = []

    def score(self, chats: Sequence[Chat]) -> list[Verdict]:
        self.batches.append(len(chats))
        return [self.verdicts(chat) for chat in chats]


def test_a_judge_that_could_not_score_is_not_a_zero(tmp_path: Path) -> None:
    def verdict(chat: Chat) -> Verdict:
        assert [message["role"] for message in chat] == ["user", "assistant"]
        if chat[1]["content"] == "odd":
            return Verdict(None, reason="the judge was unsure")
        return Verdict(0.0, label="off_topic", probabilities={"off_topic": 0.9})

    task = harmless(prompts=8)
    judge = _Judge(verdict)
    task.scorer = [harmless_scorer(judge)]  # type: ignore[arg-type]
    texts = iter(["odd", "even"] * 4)
    log = run(task, lambda _: next(texts), tmp_path)
    assert log.results is not None
    assert log.results.scores[0].scored_samples == 4
    assert log.results.scores[0].unscored_samples == 4
    found = list(scores(log).values())
    unscored = [one for one in found if one.value != one.value]
    assert [one.reason for one in unscored] == ["the judge was unsure"] * 4
    assert all(one.value == 1 for one in found if one not in unscored)
    assert metrics(log)["off_topic"] == 1


def test_a_judge_without_refusal_labels_does_not_measure_harmlessness(tmp_path: Path) -> None:
    task = harmless(prompts=2)
    task.scorer = [harmless_scorer(_Judge(lambda _: Verdict(3.5)))]  # type: ignore[arg-type]
    for one in scores(run(task, lambda _: "text", tmp_path)).values():
        assert one.value != one.value
        assert "gives no refusal label" in one.reason


def test_the_judge_sees_batches(tmp_path: Path) -> None:
    judge = _Judge(lambda _: Verdict(0.0, label="full_refusal"))
    task = over_refusal(prompts=100)
    task.scorer = [harmless_scorer(judge)]  # type: ignore[arg-type]
    run(task, lambda _: "No.", tmp_path)
    assert sum(judge.batches) == 100
    assert len(judge.batches) <= 8, judge.batches


def test_a_judge_that_fails_names_itself(tmp_path: Path) -> None:
    task = harmless(prompts=1, judge="no_such_judge")
    with pytest.raises(Exception, match="no_such_judge") as caught:
        run(task, lambda _: "text", tmp_path)
    assert isinstance(caught.value, ConfigError) or "ConfigError" in repr(caught.value)


def test_a_log_is_scored_again_from_what_it_holds(tmp_path: Path) -> None:
    """The scorer is rebuilt from the log's own metadata: suite files are not needed any more."""
    task = helpful(prompts=10)
    first = run(task, lambda _: "Paris", tmp_path)
    again = score(
        first, helpful(prompts=1).scorer or [], action="overwrite", model="none/none", display="none"
    )
    assert {k: s.value for k, s in scores(first).items()} == {k: s.value for k, s in scores(again).items()}


def test_epochs_share_a_cluster(tmp_path: Path) -> None:
    log = run(capability(prompts=4), lambda _: "A", tmp_path, epochs=3)
    samples = log.samples or []
    assert len(samples) == 12
    assert len({sample.metadata["cluster"] for sample in samples}) == 4


def test_prompts_of_ones_own(tmp_path: Path, rows_file: Callable[[Sequence[dict[str, Any]]], str]) -> None:
    file = rows_file([{"prompt": "Say yes."}, {"prompt": "Say no.", "category": "b", "id": "two", "note": 1}])
    task = prompts(dataset=file, judge="refusal_string_match", name="mine")
    log = run(task, lambda _: "I cannot help with that.", tmp_path)
    assert log.eval.task == "mine"
    assert {one.metadata["label"] for one in scores(log).values()} == {"full_refusal"}
    two = next(sample for sample in log.samples or [] if sample.id == "two")
    assert two.metadata["component"] == "mine"
    assert two.metadata["fields"] == {"note": 1}


BAD_ROWS = {
    "no rows": ("", "the file has no rows"),
    "no prompt": ('{"id": "a", "category": "c"}', "line 1: the field 'prompt' is missing"),
    "blank": ('{"id": "a", "category": "c", "prompt": " "}', "blank"),
    "twice": (
        '{"id": "a", "category": "c", "prompt": "x"}\n{"id": "a", "category": "c", "prompt": "y"}',
        "line 2",
    ),
    "unknown field": ('{"id": "a", "category": "c", "prompt": "x", "promt": "y"}', "unknown field 'promt'"),
    "not JSON": ('{"id": "a"', "line 1: is not valid JSON"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_name_file_and_line(case: str, tmp_path: Path) -> None:
    text, message = BAD_ROWS[case]
    path = tmp_path / "bad.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        harmless(dataset=str(path))
    assert message in str(caught.value)
    assert "bad.jsonl" in str(caught.value)


def test_a_bad_rule_names_the_row(rows_file: Callable[[Sequence[dict[str, Any]]], str]) -> None:
    rules = [{"rule": "word_count", "atmost": 3}]
    file = rows_file([{"id": "seven", "prompt": "p", "category": "c", "rules": rules}])
    with pytest.raises(DataError, match="at_most") as caught:
        helpful(instructions=file)
    assert "row 'seven'" in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: capability(prompts=0), "the number of prompts is 1 or more"),
        (lambda: capability(prompts=["capability-1"]), "did you mean"),
        (lambda: honest(dataset="honset"), "did you mean 'honest'"),
        (lambda: honest(dataset="nothing.jsonl"), "no such file"),
        (lambda: honest(dataset="harmless"), "answerable"),
        (lambda: helpful(instructions=None, questions=None), "no rows"),
    ],
)
def test_bad_arguments_are_clear(call: Callable[[], Task], message: str) -> None:
    with pytest.raises((ConfigError, DataError)) as caught:
        call()
    assert message in str(caught.value)
