"""Emulated fine-tuning: add what tuning changed in one model to another model, token by token.

"An Emulator for Fine-Tuning Large Language Models using Small Language Models" (Mitchell et al., arXiv
2310.12962). A tuned model is its base times a behaviour, the ratio of tuned to base; the ratio of a small
pair, multiplied onto a large base, emulates a large tuned model that nobody trained (up-scaling; with a large
pair and a small base, down-scaling). Several behaviours are mixed with weights while decoding, so one slider
goes from one to another, and nothing is trained.

With the system's own ``model`` as π_large, ``base`` as π_base and each ``tuned`` one as π_i,

    log π̃(y | x) = log π_large(y | x) + β Σ_i λ_i [log π_i(y | x) − log π_base(y | x)] − log Z

where the next token y is drawn from π̃ at each step (normalised a step at a time, the paper's approximation
of the sequence-level optimum). β = 1 emulates, β > 1 amplifies, β = 0 is the large model alone.

- **Templates.** Each model reads the chat under its own chat template, or the one that ``templates`` gives;
  a model without one reads the large model's prompt.
- **Vocabularies** must give a token the same id; tokens that a model lacks are never drawn, and models that
  disagree are refused.
- **Conservative up-scaling** (``upscaling_top_p`` below 1): the ratio large to base is applied only to the
  tokens that make up that mass under the small models' own mixture; elsewhere it is 1, since the ratio of two
  tiny probabilities is noise.
- **Speculative decoding** (``draft_tokens`` k > 0): the small models draw k tokens one by one, and one pass
  of the large model and of the base checks them all. The distribution of the answers is exactly the same
  (``trivet.decode._speculation``).

It costs one forward pass of every model at each token: the prompt once for each, nothing twice. Models with
the same weights are one model, and models whose terms cancel are not run at all: with the large model as
``base`` and one tuned model of the same size, only the tuned one is. With speculation a block of k drafted
tokens costs k passes of the small tuned models and one of the others.
"""

from collections.abc import Generator
from typing import Any

import torch
from pydantic import Field, field_validator, model_validator

from trivet import _validation
from trivet.catalogue import method
from trivet.decode._answer import Answer
from trivet.decode._emulation import Emulation, Notes
from trivet.decode._speculation import accepts, corrected
from trivet.errors import ContextLengthError
from trivet.models.operations import Commit, Program, ProgramContext, Several
from trivet.models.torch_engine.sampling import Draw, Drawn, described, draw, pick, probabilities

_ATTACK = (
    "a negative value turns the tuning round, which undoes alignment (emulated disalignment, arXiv"
    " 2402.12343): that is an attack, not a way of decoding"
)
_Steps = Generator[Several, Any, list[Drawn]]


class Config(_validation.Config):
    """The models that lend their behaviour, and how much of it; the system's ``model`` is the large one.

    Models are named as everywhere: a folder, a PEFT adapter, a hub id, the embedded model.
    """

    base: str = Field(min_length=1, description="the model that the tuned ones were tuned from")
    tuned: dict[str, str] = Field(min_length=1, max_length=16, description="behaviour → its tuned model")
    weights: dict[str, float] | None = Field(
        None, description="λ of each behaviour, 0 or more; by default equal shares that sum to 1"
    )
    beta: float = Field(1.0, le=100, description="strength of all behaviours; above 1 amplifies, 0 is none")
    upscaling_top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="mass of the small models' likely tokens that are up-scaled; 1: all tokens",
    )
    draft_tokens: int = Field(0, ge=0, le=32, description="tokens drafted for each check; 0: no speculation")
    templates: dict[str, str] = Field(
        default_factory=dict, description="Jinja chat template of 'base' or of a behaviour's model"
    )

    @field_validator("beta")
    @classmethod
    def _no_attack(cls, value: float) -> float:
        if value < 0:
            raise ValueError(_ATTACK)
        return value

    @model_validator(mode="after")
    def _names_fit(self) -> "Config":
        for name in self.tuned:
            if not name.replace("_", "").replace("-", "").isalnum() or name == "base":
                raise ValueError(f"tuned: a behaviour's name is letters, digits, '-' and '_': {name!r}")
        for name, weight in (self.weights or {}).items():
            if name not in self.tuned:
                raise ValueError(f"weights: no such behaviour; {_validation.did_you_mean(name, self.tuned)}")
            if weight < 0:
                raise ValueError(f"weights: {name}: {_ATTACK}")
            if not weight <= 100:
                raise ValueError(f"weights: {name} is at most 100")
        if self.weights is not None and set(self.weights) != set(self.tuned):
            raise ValueError("weights: give one for every behaviour")
        for name in self.templates:
            if name not in {"base", *self.tuned}:
                known = _validation.did_you_mean(name, ["base", *self.tuned])
                raise ValueError(f"templates: no such model; {known}")
        return self

    @property
    def model_names(self) -> dict[str, str]:
        """The models that run beside the system's own, by the place of their setting."""
        return {"base": self.base} | {f"tuned.{name}": model for name, model in self.tuned.items()}

    def content(self) -> dict[str, Any]:
        """What determines the answers besides the models, whose weights the engine's identity holds."""
        return {**self.model_dump(mode="json", exclude={"base", "tuned"}), "weights": self.shares}

    @property
    def shares(self) -> dict[str, float]:
        """λ of each behaviour."""
        return self.weights or dict.fromkeys(self.tuned, 1 / len(self.tuned))


@method(
    paper="2310.12962",
    version=1,
    takes=("Chat", "Checkpoint"),
    gives=("Chat",),
    needs=("next", "several", "commit"),
)
def program(config: Config, context: ProgramContext) -> Program:
    """Draw each token from the mixture, or draft some and check them together; commit them as they come."""
    answer = Answer(context)
    emulation = Emulation(
        context,
        shares={f"tuned.{name}": share for name, share in config.shares.items()},
        beta=config.beta,
        top_p=config.upscaling_top_p,
        templates={"base" if name == "base" else f"tuned.{name}": t for name, t in config.templates.items()},
    )
    settings = config.model_dump(mode="json", exclude={"base", "tuned", "templates"})
    notes = Notes(settings, config.shares, context.decode)
    longest = config.draft_tokens if emulation.speculates else 0
    try:
        while not answer.ended:
            # A block gives one token more than it drafts.
            count = min(longest, answer.room - 1)
            drawn: list[Drawn] = []
            try:
                if count > 0:
                    drawn = yield from _block(count, emulation, answer, context, notes)
                elif answer.room > 0:
                    drawn = yield from _step(emulation, answer, context, notes)
            except ContextLengthError:
                if count > 0:  # single tokens may still fit
                    longest = 0
                    continue
                if not answer.tokens:
                    raise
                yield Commit(answer.end("context"))
                return
            yield Commit(answer.add(drawn))
    finally:
        context.trace.append(notes.summary(emulation, len(answer.tokens)))


def _step(emulation: Emulation, answer: Answer, context: ProgramContext, notes: Notes) -> _Steps:
    """One token from one pass of every model."""
    models = emulation.needed
    logprobs = yield from emulation.read(models, answer.tokens)
    [drawn] = _drawn(emulation, logprobs, answer.tokens, context)
    notes.passed(models)
    notes.token(emulation, logprobs, drawn)
    return [drawn]


def _drawn(
    emulation: Emulation, logprobs: dict[str, torch.Tensor], tokens: list[int], context: ProgramContext
) -> list[Drawn]:
    mixed = context.transform((*context.prompt, *tokens), emulation.target(logprobs))
    return draw(mixed[None], [_settings(context, tokens)])


def _settings(context: ProgramContext, tokens: list[int]) -> Draw:
    return Draw(context.sampling, context.random, context.prompt, tuple(tokens), context.top_logprobs)


def _block(count: int, emulation: Emulation, answer: Answer, context: ProgramContext, notes: Notes) -> _Steps:
    """Draft ``count`` tokens with the small models, check them with the others: 1 to count + 1 tokens."""
    small, others = emulation.drafting, emulation.checking
    drafts: list[int] = []
    proposals: list[torch.Tensor] = []
    known: list[dict[str, torch.Tensor]] = []  # of each position, the log-probabilities of the small models
    while len(drafts) < count and not context.eos.intersection(drafts[-1:]):
        tokens = [*answer.tokens, *drafts]
        known.append((yield from emulation.read(small, tokens)))
        proposed = context.transform((*context.prompt, *tokens), emulation.small(known[-1]))
        proposals.append(probabilities(proposed[None], [_settings(context, tokens)])[0])
        drafts.append(int(pick(proposals[-1][None], [context.random.random()])[0]))
    notes.passed(small, len(drafts))
    notes.drafted += len(drafts)
    ends = drafts[-1] in context.eos
    # Nothing follows an end-of-sequence token, so it is not fed.
    fed = drafts[:-1] if ends else drafts
    checks = yield from emulation.read(others, [*answer.tokens, *fed], last=len(fed) + 1)
    notes.passed(others)
    accepted: list[Drawn] = []
    for index, token in enumerate(drafts):
        tokens = [*answer.tokens, *drafts[:index]]
        logprobs = known[index] | {model: rows[index] for model, rows in checks.items()}
        mixed = context.transform((*context.prompt, *tokens), emulation.target(logprobs))
        wanted = probabilities(mixed[None], [_settings(context, tokens)])[0]
        kept = accepts(wanted, proposals[index], token, context.random.random())
        notes.proposed += 1
        notes.accepted += kept
        chosen = token if kept else corrected(wanted, proposals[index], context.random.random())
        accepted += described(mixed[None], torch.tensor([chosen]), [context.top_logprobs])
        notes.token(emulation, logprobs, accepted[-1], drafted=kept)
        if not kept or (ends and index == len(drafts) - 1):
            return accepted
    last = yield from emulation.read(small, [*answer.tokens, *drafts])
    notes.passed(small)
    logprobs = last | {model: rows[-1] for model, rows in checks.items()}
    accepted += _drawn(emulation, logprobs, [*answer.tokens, *drafts], context)
    notes.token(emulation, logprobs, accepted[-1])
    return accepted
