"""Token ids are TRL's; what is cut or dropped is counted."""

from pathlib import Path
from typing import Any

import pytest
from tests.train.conftest import make_pairs
from transformers import AutoTokenizer

from trivet.errors import DataError
from trivet.train.tokenising import tokenise_pairs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def tokenizer(tiny_model_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model_folder)


TEXTS = [{"prompt": "What is blue? ", "chosen": "The sky.", "rejected": "A red river."}]


@pytest.mark.parametrize("pairs", [make_pairs(6), TEXTS])
def test_token_ids_are_those_of_trl(
    tokenizer: Any, tiny_model_folder: Path, tmp_path: Path, pairs: list[Any]
) -> None:
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    theirs = DPOTrainer(
        model=str(tiny_model_folder),
        args=DPOConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True
        ),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
    ).train_dataset
    ours = tokenise_pairs(pairs, tokenizer, max_length=1024).examples
    assert len(ours) == len(theirs)
    for one, row in zip(ours, theirs, strict=True):
        assert list(one.prompt) == row["prompt_ids"]
        assert [list(answer) for answer in one.answers] == [row["chosen_ids"], row["rejected_ids"]]


def test_answers_are_cut_and_rows_dropped_with_their_reasons(tokenizer: Any) -> None:
    pairs = make_pairs(6)
    whole = tokenise_pairs(pairs, tokenizer, max_length=None)
    assert whole.notes() == []
    limit = max(len(example.prompt) for example in whole.examples)
    cut = tokenise_pairs(pairs, tokenizer, max_length=limit)
    assert all(len(one.prompt) + len(answer) <= limit for one in cut.examples for answer in one.answers)
    kept = {example.row for example in cut.examples}
    assert kept == {one.row for one in whole.examples if len(one.prompt) < limit}
    longer = [
        answer
        for one in whole.examples
        if one.row in kept
        for answer in one.answers
        if len(one.prompt) + len(answer) > limit
    ]
    assert cut.cut == len(longer) > 0
    assert any("rows dropped" in note for note in cut.notes())
    assert any("answers cut at max_length" in note for note in cut.notes())
    with pytest.raises(DataError, match="no pair is left"):
        tokenise_pairs(pairs, tokenizer, max_length=3)


def test_messages_need_a_chat_template(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="no chat template"):
        tokenise_pairs(make_pairs(1), tokenizer, max_length=None)
    assert tokenise_pairs(TEXTS, tokenizer, max_length=None).examples
