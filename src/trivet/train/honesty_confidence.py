"""Honesty alignment, Confidence: answer, and say how sure the model is.

Yang, Chern, Qiu, Neubig and Liu, "Alignment for Honesty" (arXiv 2312.07000, section 4.2). As in
``train/honesty_absolute`` the model's expected accuracy EA(x) comes from m answers of its own; a right answer
is trained behind a prefix that says it, in per cent (``num``) or in one of five degrees of words (``verb``),
and "I don't know" where no sample is right.

    output(x) = "I don't know."          if EA(x) = 0
                prefix(EA(x)) + answer   else

Cost: m + 1 short answers to each question, once, and supervised fine-tuning on one row a question.

::

    model: smollm2-135m-instruct
    data: questions.jsonl
    form: verb
    held_out: 200
    adapter: {r: 8, lora_alpha: 16}
    trainer: {learning_rate: 2.0e-4, num_train_epochs: 2, per_device_train_batch_size: 8}
"""

from typing import Literal

from pydantic import Field

from trivet.catalogue import method
from trivet.train.honesty_method import HonestyConfig, train_on_own_answers
from trivet.train.honesty_rows import confidence_num, confidence_verb
from trivet.train.running import TrainingContext


class Config(HonestyConfig):
    """Those of honesty alignment, and how confidence is said."""

    form: Literal["num", "verb"] = Field("verb", description="confidence in per cent or in words")


@method(paper="2312.07000", version=1, takes=("Checkpoint", "DataSet"), gives=("Checkpoint",))
def train(config: Config, context: TrainingContext) -> None:
    """Train on the model's own answers; the checkpoint or adapter is in ``context.output``."""
    train_on_own_answers(config, context, confidence_num if config.form == "num" else confidence_verb)
