"""Public sets of questions with a key: multiple choice (``capability``) and short answers."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from trivet.data.public._registry import Hub, LeftOut, SourceRow, public_set

# The revisions of MMLU, GSM8K and TruthfulQA are those that inspect_evals 0.26.0 loads.


@public_set(
    title="MMLU, 57 subjects (arXiv 2009.03300)",
    kind="capability",
    licence="MIT",
    source="https://github.com/hendrycks/test",
    files={
        "test": ("test.jsonl", "*_test.csv", "test-*.parquet"),
        "dev": ("dev.jsonl", "*_dev.csv", "dev-*.parquet"),
        "validation": ("validation.jsonl", "*_val.csv", "validation-*.parquet"),
    },
    hub=Hub(
        "cais/mmlu",
        {
            "test": ("all/test-*.parquet",),
            "dev": ("all/dev-*.parquet",),
            "validation": ("all/validation-*.parquet",),
        },
        "c30699e8356da336a370243923dbaf21066bb9fe",
    ),
    columns=("question", "A", "B", "C", "D", "answer"),
)
def mmlu(row: SourceRow) -> dict[str, Any] | LeftOut:
    """The answer is a letter or an index from 0; CSV files have no header and name the subject themselves."""
    question = row.text("question")
    subject = row.optional("subject") or re.sub(r"_(test|dev|val)$", "", row.stem)
    if question == "question" and row.values.get("answer") == "answer":
        return LeftOut("a header that was taken for a question")
    if "choices" in row.values:
        choices = row.texts("choices")
    else:
        choices = [str(row.values[row.name(letter)]) for letter in "ABCD"]
    return _multiple_choice(row, question, choices, str(row.values[row.name("answer")]), subject)


@public_set(
    title="OpenBookQA, elementary science (arXiv 1809.02789)",
    kind="capability",
    licence="Apache-2.0",
    source="https://github.com/allenai/OpenBookQA",
    files={
        "test": ("questions.jsonl", "test.jsonl", "test-*.parquet"),
        "train": ("train.jsonl", "train-*.parquet"),
        "validation": ("dev.jsonl", "validation-*.parquet"),
    },
    hub=Hub(
        "allenai/openbookqa",
        {
            "test": ("main/test-*.parquet",),
            "train": ("main/train-*.parquet",),
            "validation": ("main/validation-*.parquet",),
        },
    ),
)
def openbookqa(row: SourceRow) -> dict[str, Any] | LeftOut:
    """Three layouts: flat, the publisher's (choices inside the question), and the hub's (parallel lists)."""
    own = row.text("id")
    question, choices = row.values.get("question"), row.values.get("choices")
    if isinstance(question, dict):
        choices, question = question.get("choices"), question.get("stem")
    elif question is None:
        question = row.text("question_stem")
    texts: Any = choices
    if isinstance(choices, dict):
        texts = choices.get("text")
    elif isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices):
        texts = [choice.get("text") for choice in choices]
    if not isinstance(question, str) or not isinstance(texts, list):
        raise row.error("has no question with choices")
    if not all(isinstance(text, str) for text in texts):
        raise row.error("a choice is not text")
    converted = _multiple_choice(row, question, texts, row.text("answer", "answerKey"), "elementary_science")
    return converted if isinstance(converted, LeftOut) else {**converted, "id": own}


def _multiple_choice(
    row: SourceRow, question: str, choices: list[str], key: str, category: str
) -> dict[str, Any] | LeftOut:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices)]
    key = key.strip()
    if key.isascii() and key.isdigit() and int(key) < len(choices):
        answer = int(key)
    elif len(key) == 1 and key in letters:
        answer = letters.index(key)
    else:
        raise row.error(f"the answer {key!r:.80} is neither a letter nor an index of {len(choices)} choices")
    if not all(choice.strip() for choice in choices):
        return LeftOut("a choice is empty")
    if [choice.strip() for choice in choices].count(choices[answer].strip()) > 1:
        return LeftOut("the right choice is given twice")
    return {"prompt": question, "choices": choices, "answer": answer, "category": category}


@public_set(
    title="TruthfulQA, the best answer among wrong ones (arXiv 2109.07958)",
    kind="capability",
    licence="Apache-2.0",
    source="https://github.com/sylinrl/TruthfulQA (TruthfulQA.csv)",
    files={"validation": ("questions.jsonl", "TruthfulQA.csv", "validation-*.parquet")},
    hub=Hub(
        "truthfulqa/truthful_qa",
        {"validation": ("multiple_choice/validation-*.parquet",)},
        "741b8276f2d1982aa3d5b832d3ee81ed3b896490",
    ),
)
def truthfulqa(row: SourceRow) -> dict[str, Any] | LeftOut:
    """MC1 of the paper. The source lists the right answer first, so the choices are put in another order,
    which depends on the text alone.
    """
    question = row.text("Question", "question")
    if "mc1_targets" in row.values:
        right, wrong = _mc1(row)
    else:
        right = row.text("Best Answer").strip()
        wrong = [part.strip() for part in row.text("Incorrect Answers").split(";")]
    wrong = [text for text in dict.fromkeys(wrong) if text and text != right]
    if not wrong:
        return LeftOut("there is no wrong answer")
    choices = shuffled([right, *wrong], salt=question)
    return {
        "prompt": question,
        "choices": choices,
        "answer": choices.index(right),
        "category": row.optional("Category") or "truthfulness",
        "metadata": {"type": row.optional("Type")},
    }


def shuffled(choices: Sequence[str], *, salt: str) -> list[str]:
    """``choices`` in an order that depends on their content and ``salt`` alone."""
    return sorted(choices, key=lambda choice: hashlib.sha256(f"{salt}\0{choice}".encode()).digest())


def _mc1(row: SourceRow) -> tuple[str, list[str]]:
    targets = row.values["mc1_targets"]
    choices, labels = targets.get("choices"), targets.get("labels")
    if not isinstance(choices, list) or not isinstance(labels, list) or labels.count(1) != 1:
        raise row.error("the field 'mc1_targets' needs choices and labels with exactly one 1")
    return choices[labels.index(1)], [text for text, label in zip(choices, labels, strict=True) if label != 1]


@public_set(
    title="GSM8K, grade-school mathematics (arXiv 2110.14168)",
    kind="short_questions",
    licence="MIT",
    source="https://github.com/openai/grade-school-math (grade_school_math/data)",
    files={
        "test": ("test.jsonl", "test-*.parquet"),
        "train": ("train.jsonl", "train-*.parquet"),
    },
    hub=Hub(
        "openai/gsm8k",
        {"test": ("main/test-*.parquet",), "train": ("main/train-*.parquet",)},
        "cc7b047b6e5bb11b4f1af84efc572db110a51b3c",
    ),
)
def gsm8k(row: SourceRow) -> dict[str, Any]:
    """The accepted answer is the number behind ``####``, with and without commas between its thousands."""
    solution = row.text("answer")
    number = solution.rpartition("####")[2].strip().replace(",", "")
    if "####" not in solution or not re.fullmatch(r"-?\d+(\.\d+)?", number):
        raise row.error("the answer does not end with '#### number'")
    grouped = f"{int(number):,}" if "." not in number else number
    return {
        "prompt": row.text("question"),
        "answers": list(dict.fromkeys([number, grouped])),
        "category": "mathematics",
        "metadata": {"solution": solution},
    }
