"""Honesty alignment, Multisample: all samples are trained on, the wrong ones as "I don't know".

Yang, Chern, Qiu, Neubig and Liu, "Alignment for Honesty" (arXiv 2312.07000, section 4.2). As in
``train/honesty_absolute`` the model answers each question m times at temperature 1; each sample becomes a
row, itself where it is right and "I don't know" where it is not. So a question is declined in training
as often as the model gets it wrong, and no threshold is needed:

    output_i(x) = sample_i if right, else "I don't know."        i = 1 … m

Cost: m + 1 short answers to each question, once, and supervised fine-tuning on m rows a question.

::

    model: smollm2-135m-instruct
    data: questions.jsonl
    held_out: 200
    adapter: {r: 8, lora_alpha: 16}
    trainer: {learning_rate: 2.0e-4, num_train_epochs: 1, per_device_train_batch_size: 8}
"""

from trivet.catalogue import method
from trivet.train.honesty_method import HonestyConfig, train_on_own_answers
from trivet.train.honesty_rows import multisample
from trivet.train.running import TrainingContext


class Config(HonestyConfig):
    """Those of honesty alignment."""


@method(paper="2312.07000", version=1, takes=("Checkpoint", "DataSet"), gives=("Checkpoint",))
def train(config: Config, context: TrainingContext) -> None:
    """Train on the model's own answers; the checkpoint or adapter is in ``context.output``."""
    train_on_own_answers(config, context, multisample)
