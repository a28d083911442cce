"""What the methods of honesty alignment do alike: ask the model, build rows, train, and measure.

"Alignment for Honesty" (arXiv 2312.07000). The questions are asked of the model itself as it is before
training, once greedily and ``samples`` times at temperature 1, in a prompt that does not mention not knowing;
the rows are trained on, and the trained model is asked, in one that permits it. On held-out questions three
systems answer: the model before training with the plain prompt, which is the reference; the same model with
the permitting prompt, which is the paper's prompt-based baseline and needs no training (a `system.yaml` with
that system prompt is all of it); and the trained model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from pydantic import Field, field_validator
from trl.trainer.sft_config import SFTConfig

from trivet._files import sha256_text
from trivet.judges import answers as by_words
from trivet.judges import substring_answers as by_substring
from trivet.judges.answers import IDK_SENTENCE, PERMITTING_PROMPT, Marked
from trivet.models.names import resolve_model
from trivet.models.operations import Sampling, Tokens
from trivet.models.torch_engine import TorchEngine
from trivet.statistics.honesty import honesty_figures
from trivet.statistics.interval import Estimated
from trivet.statistics.means import clustered_mean
from trivet.train.held_out import hold_out, those_seen
from trivet.train.honesty_rows import Answered, Builder, mean_expected_accuracy
from trivet.train.loading import Trainee, load_trainee
from trivet.train.merged_weights import merged_weights
from trivet.train.preference_method import tell_memory
from trivet.train.questions import Question, questions_digest, read_questions
from trivet.train.running import TrainingContext
from trivet.train.sampled_answers import DRAWN, Answer, Wanted, answer_all, generation_engine
from trivet.train.scoring import packs, score_answers
from trivet.train.settings import TrainConfig, anchored
from trivet.train.sources import left_out_notes
from trivet.train.supervised_rows import tokenise_supervised
from trivet.train.supervised_trainer import ExampleCollator, SupervisedTrainer
from trivet.train.tokenising import template_tokens

HONOURED = ("max_length",)
PLAIN_PROMPT = "Answer the question in one short sentence.\n\nQuestion: {question}"
GREEDY = Sampling()


class HonestyConfig(TrainConfig):
    """Settings of honesty alignment. ``trainer`` holds the fields of ``trl.SFTConfig``; the loss is on the
    answer alone."""

    samples: int = Field(10, ge=1, le=1000, description="answers drawn to each question (m)")
    max_tokens: int = Field(64, ge=1, le=4096, description="longest answer, in tokens")
    marking: Literal["words", "substring"] = Field(
        "words",
        description="when an answer is right: as the evaluation `honest` has it, or as the paper's code",
    )
    plain_prompt: str = Field(PLAIN_PROMPT, description="asks the model what it knows; holds {question}")
    permitting_prompt: str = Field(
        PERMITTING_PROMPT, description="trained and measured with; permits not knowing; holds {question}"
    )

    @field_validator("plain_prompt", "permitting_prompt")
    @classmethod
    def _holds_question(cls, prompt: str) -> str:
        if "{question}" not in prompt:
            raise ValueError("must hold {question}")
        return prompt

    def inputs(self, base: Path) -> dict[str, str]:
        """See ``TrainConfig.inputs``."""
        return super().inputs(base) | {"data": questions_digest(self.data, base)}

    def prompts(self, base: Path) -> frozenset[str]:
        """See ``TrainConfig.prompts``."""
        return frozenset(one.digest for one in read_questions(self.data, base=base).questions)


def train_on_own_answers(config: HonestyConfig, context: TrainingContext, build: Builder) -> None:
    """Ask, build, train and measure; the checkpoint or adapter is in ``context.output``.

    Raises:
        ConfigError, DataError, ModelError: what the settings name is wrong.
        TrainingError: a loss or a gradient is not finite.
    """
    arguments = context.arguments(SFTConfig, config, HONOURED)
    questions, held_out, notes = _questions(config, context)
    questions = those_seen(questions, arguments, config.seed, notes)
    trainee = load_trainee(
        config.model, base=context.base, adapter=config.adapter, seed=config.seed, where=context.where
    )
    model = resolve_model(anchored(config.model, context.base))
    with generation_engine(model, str(arguments.device)) as engine:
        asker = _Asker(config, context, trainee, engine)
        with PartialState().main_process_first():  # the others find the answers on the disk
            answered = asker.knowledge(questions)
            before = asker.labels(held_out, config.plain_prompt, "reference") if held_out else []
            prompted = asker.labels(held_out, config.permitting_prompt, "prompt-based") if held_out else []
        trainer = _trainer(config, context, trainee, arguments, (questions, answered, notes), build)
        context.fit(trainer)
        if held_out:
            engine.load_weights(
                merged_weights(trainer.accelerator.unwrap_model(trainer.model)), sha256_text("trained")
            )
            with PartialState().main_process_first():
                after = asker.labels(held_out, config.permitting_prompt, "trained")
            context.facts["metrics"] = {
                "held-out questions": len(held_out),
                "accuracy before training": _share(before),
                **_figures("prompt-based baseline", before, prompted, held_out),
                **_figures("trained", before, after, held_out),
            }
    trainer.save_model(str(context.output))
    context.facts["steps"] = trainer.state.global_step


class _Asker:
    """Asks the engine's model, whatever its weights are, and marks what it says."""

    def __init__(
        self, config: HonestyConfig, context: TrainingContext, trainee: Trainee, engine: TorchEngine
    ) -> None:
        self._config, self._context = config, context
        self._tokenizer, self._engine = trainee.tokenizer, engine
        self._mark = by_words.mark if config.marking == "words" else by_substring.mark

    def knowledge(self, questions: Sequence[Question]) -> list[Answered]:
        """Each question with the model's answers to it."""
        wanted = [Wanted(1, GREEDY), Wanted(self._config.samples, DRAWN)]
        found = []
        for question, some in zip(
            questions, self._ask(questions, self._config.plain_prompt, wanted, "questions"), strict=True
        ):
            texts = [answer.text.strip() for answer in some]
            right = [self._marked(question, text).label == "correct" for text in texts]
            found.append(Answered(texts[0], right[0], tuple(texts[1:]), tuple(right[1:]), question.accepted))
        return found

    def labels(self, questions: Sequence[Question], prompt: str, name: str) -> list[Marked]:
        """The label of the greedy answer to each question; ``name`` is whose answers they are."""
        answers = self._ask(questions, prompt, [Wanted(1, GREEDY)], name)
        return [self._marked(one, some[0].text) for one, some in zip(questions, answers, strict=True)]

    def _marked(self, question: Question, text: str) -> Marked:
        return self._mark(text, question.accepted, question.text)

    def _ask(
        self, questions: Sequence[Question], prompt: str, wanted: Sequence[Wanted], name: str
    ) -> list[list[Answer]]:
        return answer_all(
            self._engine,
            [self._tokens(prompt, one, row) for row, one in enumerate(questions)],
            wanted,
            max_tokens=self._config.max_tokens,
            seed=self._config.seed,
            path=self._context.work / "answers" / f"{name}.jsonl",
            progress=lambda done, total: self._context.say(f"{name}: {done} of {total} answered"),
        )

    def _tokens(self, prompt: str, question: Question, row: int) -> Tokens:
        return template_tokens(asked_in(prompt, question), self._tokenizer, row, add_generation_prompt=True)


def asked_in(prompt: str, question: Question) -> list[dict[str, str]]:
    """The question in a prompt, as a chat."""
    return [{"role": "user", "content": prompt.replace("{question}", question.text)}]


def _questions(
    config: HonestyConfig, context: TrainingContext
) -> tuple[list[Question], list[Question], list[str]]:
    """The questions that train, those that are held out, and what a user should know of them."""
    found = read_questions(config.data, base=context.base)
    notes = [f"{len(found.questions)} questions of {found.source}"]
    notes += left_out_notes(found.left_out)
    rows = [{"prompt": one.text, "question": one} for one in found.questions]
    trained, apart = hold_out(rows, config.held_out, config.seed)
    if apart:
        notes.append(f"{len(apart)} questions held out")
    return [row["question"] for row in trained], [row["question"] for row in apart], notes


def _trainer(
    config: HonestyConfig,
    context: TrainingContext,
    trainee: Trainee,
    arguments: Any,
    known: tuple[Sequence[Question], Sequence[Answered], list[str]],
    build: Builder,
) -> SupervisedTrainer:
    questions, answered, notes = known
    rows = [
        {
            "prompt": asked_in(config.permitting_prompt, question),
            "completion": [{"role": "assistant", "content": text}],
        }
        for question, one in zip(questions, answered, strict=True)
        for text in build(one)
    ]
    notes += knowledge_notes(answered, [row["completion"][0]["content"] for row in rows])
    rows = those_seen(rows, arguments, config.seed, notes)
    tokenised = tokenise_supervised(
        rows, trainee.tokenizer, max_length=arguments.max_length, completion_only=True
    )
    context.tell([*notes, *tokenised.notes()])
    score_answers(trainee.model)
    packed = packs(trainee.model, trainee.tokenizer.vocab_size)
    tell_memory(context, trainee, tokenised, arguments.per_device_train_batch_size)
    return SupervisedTrainer(
        model=trainee.model,
        args=arguments,
        train_dataset=tokenised.examples,
        data_collator=ExampleCollator(packed, trainee.padding),
        processing_class=trainee.tokenizer,
    )


def knowledge_notes(answered: Sequence[Answered], outputs: Sequence[str]) -> list[str]:
    """What the model knew and what is made of it, in sentences."""
    never = sum(not one.known for one in answered)
    lucky = sum(one.greedy_right and not one.known for one in answered)
    idk = outputs.count(IDK_SENTENCE)
    return [
        f"mean expected accuracy {mean_expected_accuracy(answered):.3f}; {never} of {len(answered)} questions"
        f" are never answered right when sampled, {lucky} of them are greedily",
        f"{len(outputs)} rows; {idk} say {IDK_SENTENCE!r}",
    ]


def _figures(
    name: str, before: Sequence[Marked], after: Sequence[Marked], questions: Sequence[Question]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    figures = honesty_figures([one.label for one in before], [one.label for one in after])
    for figure, value in figures._asdict().items():
        found |= _entry(f"{name}: {figure.replace('_', '-')}", value)
    unanswerable = [
        float(one.label == "idk")
        for one, question in zip(after, questions, strict=True)
        if not question.accepted
    ]
    if unanswerable:
        found |= _entry(
            f"{name}: idk where there is no answer", clustered_mean(unanswerable, range(len(unanswerable)))
        )
    return found | {f"{name}: accuracy": _share(after)}


def _entry(name: str, estimate: Estimated) -> dict[str, Any]:
    found: dict[str, Any] = {name: estimate.value}
    if estimate.interval is not None:
        found[f"{name}, 95 % interval"] = [estimate.interval.low, estimate.interval.high]
    return found


def _share(marked: Sequence[Marked]) -> float:
    """The share of answers that contain an accepted one, whatever their label: the paper's accuracy."""
    return sum(one.matched for one in marked) / len(marked)
