"""Honesty alignment, Absolute: answer what is known and say of the rest that it is not.

Yang, Chern, Qiu, Neubig and Liu, "Alignment for Honesty" (arXiv 2312.07000, section 4.2). What a model knows
is measured on itself: EA(x) is the share of m answers, drawn at temperature 1, that are right. It is then
fine-tuned on its own words: a right answer where it knows one (EA ≥ τ, or its greedy answer is right), and
"I don't know" where it does not. The loss is that of supervised fine-tuning, on the answer alone.

    output(x) = the greedy answer if right, else the first right sample if EA(x) ≥ τ, else "I don't know."

``unknown: answer`` trains the accepted answer there instead: the paper's fine-tuned baseline, which teaches a
model to say what it does not know.

Cost: m + 1 short answers to each question, once, and supervised fine-tuning on one row a question.

::

    model: smollm2-135m-instruct
    data: questions.jsonl          # rows with prompt and answers; or a suite: short_questions, honest
    held_out: 200
    adapter: {r: 8, lora_alpha: 16}
    trainer: {learning_rate: 2.0e-4, num_train_epochs: 2, per_device_train_batch_size: 8}
"""

from functools import partial
from typing import Literal

from pydantic import Field

from trivet.catalogue import method
from trivet.train.honesty_method import HonestyConfig, train_on_own_answers
from trivet.train.honesty_rows import absolute, fine_tuned
from trivet.train.running import TrainingContext


class Config(HonestyConfig):
    """Those of honesty alignment, and what counts as known."""

    threshold: float = Field(
        0.1, gt=0, le=1, description="least expected accuracy of a question that is known (τ)"
    )
    unknown: Literal["idk", "answer"] = Field(
        "idk", description="what is trained where the model does not know: that it does not, or the answer"
    )


@method(paper="2312.07000", version=1, takes=("Checkpoint", "DataSet"), gives=("Checkpoint",))
def train(config: Config, context: TrainingContext) -> None:
    """Train on the model's own answers; the checkpoint or adapter is in ``context.output``."""
    build = partial(absolute, threshold=config.threshold) if config.unknown == "idk" else fine_tuned
    train_on_own_answers(config, context, build)
