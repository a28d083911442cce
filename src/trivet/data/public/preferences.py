"""Public preference pairs, in TRL's conversational format."""

import re
from typing import Any

from trivet.data.public._registry import Hub, LeftOut, SourceRow, public_set
from trivet.data.public.questions import shuffled

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def parse_dialogue(text: str) -> list[dict[str, str]] | None:
    """Messages of a transcript ``\\n\\nHuman: … \\n\\nAssistant: …``, as HH-RLHF writes it.

    Returns:
        The messages, or ``None`` where the turns do not alternate from a human one to an assistant's, or one
        is empty.
    """
    parts = _TURN.split(text)
    if parts[0].strip():
        return None
    messages = [
        {"role": _ROLES[name], "content": content.strip()}
        for name, content in zip(parts[1::2], parts[2::2], strict=True)
    ]
    expected = ["user", "assistant"] * (len(messages) // 2)
    if not messages or [message["role"] for message in messages] != expected:
        return None
    return messages if all(message["content"] for message in messages) else None


def _hh(row: SourceRow, category: str) -> dict[str, Any] | LeftOut:
    chosen, rejected = parse_dialogue(row.text("chosen")), parse_dialogue(row.text("rejected"))
    if chosen is None or rejected is None:
        return LeftOut("the turns do not alternate, or one is empty")
    if chosen[:-1] != rejected[:-1]:
        return LeftOut("the two dialogues differ before their last answer")
    if chosen[-1] == rejected[-1]:
        return LeftOut("the two answers are the same")
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:], "category": category}


@public_set(
    title="HH-RLHF, harmlessness pairs (harmless-base; arXiv 2204.05862)",
    kind="preferences",
    licence="MIT",
    source="https://github.com/anthropics/hh-rlhf",
    files={"test": ("pairs.jsonl", "test.jsonl*"), "train": ("train.jsonl*",)},
    hub=Hub(
        "Anthropic/hh-rlhf",
        {"test": ("harmless-base/test.jsonl.gz",), "train": ("harmless-base/train.jsonl.gz",)},
    ),
)
def hh_rlhf_harmless(row: SourceRow) -> dict[str, Any] | LeftOut:
    """Dialogues of one turn or more; the answer that a person found less harmful is ``chosen``."""
    return _hh(row, "harmlessness")


@public_set(
    title="Single-turn harmlessness pairs cut from HH-RLHF (arXiv 2406.11431)",
    kind="preferences",
    licence="MIT",
    source="https://github.com/RUCBM/weak-to-strong-deception (weak-to-strong/data/hh-single-turn)",
    files={
        "test": ("harmless_test.jsonl",),
        "train": ("harmless_train_gt.jsonl", "harmless_train_w2s.jsonl"),
        "train_gt": ("harmless_train_gt.jsonl",),
        "train_w2s": ("harmless_train_w2s.jsonl",),
    },
)
def hh_single_turn(row: SourceRow) -> dict[str, Any] | LeftOut:
    """One question and two answers. ``train`` is ``train_gt`` and ``train_w2s`` together."""
    return _hh(row, "harmlessness")


_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


@public_set(
    title="Helpfulness pairs in the ShareGPT layout (LLaMA-Factory's DPO demonstration)",
    kind="preferences",
    licence="Apache-2.0 (repository); excerpts of public sets whose licences differ",
    source="https://github.com/hiyouga/LLaMA-Factory (data/dpo_en_demo.json, dpo_zh_demo.json)",
    files={"all": ("pairs.jsonl", "dpo_en_demo.json", "dpo_zh_demo.json")},
)
def preference_pairs(row: SourceRow) -> dict[str, Any] | LeftOut:
    """Dialogues of any length, with a system prompt or without."""
    turns = row.values[row.name("conversations")]
    if not isinstance(turns, list) or not turns:
        raise row.error("the field 'conversations' must be a list of turns")
    chosen = _sharegpt(row, row.values[row.name("chosen")])
    rejected = _sharegpt(row, row.values[row.name("rejected")])
    if not chosen["content"].strip() or not rejected["content"].strip():
        return LeftOut("an answer is empty")
    if chosen == rejected:
        return LeftOut("the two answers are the same")
    prompt = [_sharegpt(row, turn) for turn in turns]
    return {"prompt": prompt, "chosen": [chosen], "rejected": [rejected], "category": "helpfulness"}


def _sharegpt(row: SourceRow, turn: Any) -> dict[str, str]:
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise row.error("a turn needs the fields 'from' and 'value'")
    if turn.get("from") not in _SHAREGPT_ROLES:
        known = ", ".join(_SHAREGPT_ROLES)
        raise row.error(f"a turn is from one of {known}, not {turn.get('from')!r:.80}")
    return {"role": _SHAREGPT_ROLES[turn["from"]], "content": turn["value"]}


@public_set(
    title="TruthfulQA, the best answer against a wrong one (arXiv 2109.07958)",
    kind="preferences",
    licence="Apache-2.0",
    source="https://github.com/sylinrl/TruthfulQA (TruthfulQA.csv)",
    files={"validation": ("questions.jsonl", "TruthfulQA.csv", "validation-*.parquet")},
    hub=Hub(
        "truthfulqa/truthful_qa",
        {"validation": ("generation/validation-*.parquet",)},
        "741b8276f2d1982aa3d5b832d3ee81ed3b896490",
    ),
)
def truthfulqa_pairs(row: SourceRow) -> dict[str, Any] | LeftOut:
    """A pair for each question; which of its wrong answers is ``rejected`` depends on the text alone."""
    question = row.text("Question", "question")
    right = row.text("Best Answer", "best_answer").strip()
    listed = row.name("Incorrect Answers", "incorrect_answers")
    wrong = row.texts(listed) if isinstance(row.values[listed], list) else row.text(listed).split(";")
    wrong = [text for text in dict.fromkeys(part.strip() for part in wrong) if text and text != right]
    if not wrong:
        return LeftOut("there is no wrong answer")
    rejected = shuffled(wrong, salt=question)[0]
    return {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": right}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "category": "truthfulness",
    }
