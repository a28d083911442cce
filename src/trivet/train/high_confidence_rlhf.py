"""Reinforcement learning within a limit on harm, and a policy only where a test on fresh prompts shows it.

HC-RLHF: "Reinforcement Learning from Human Feedback with High-Confidence Safety Constraints" (arXiv
2506.08266). A policy is optimised for a reward while a pessimistic prediction of its mean cost is held within
the limit τ by a multiplier λ (``safety_constraint``); the candidate is chosen on validation prompts; and an
upper confidence bound of its mean cost, on safety prompts that are used once, decides whether it is returned.
Otherwise the answer is "no solution found" (NSF): the output then has no weights. The chance of returning a
policy whose expected cost is above τ is at most δ:

    max_π min_{λ≥0}  E R − β KL(π ‖ π_ref) − λ (μ_C + κ s_C − τ)
    return π if UB(costs on D_s, δ) ≤ τ else NSF

What a cost is, is fixed beforehand: ``cost_labels`` count 1 and others 0 (tested by Clopper-Pearson);
``cost_low`` and ``cost_high`` are the judge's values that cost 0 and 1 (betting); or the judge's own values,
for which only Student's approximate bound is there, and has to be asked for by name. Limit and δ are written
to a ledger before the prompts are read. A second test on prompts that were used is refused; with ``split`` K
from the first on, K tests may share δ. Prompts that the model or the judge of reward is known to have learnt
from do not test: they are not drawn from the data, and refused in a source of their own.

Cost: for each step ``num_generations`` answers to each prompt, scored by two judges, and one update; one
answer to each validation prompt for each candidate and for the model before training; one to each safety
prompt. The engine holds a second copy of the weights, and each candidate a copy of the trained ones on disk.

::

    model: smollm2-135m-instruct
    data: hh_single_turn/test:data/hh-single-turn
    held_out: 100                                  # validation
    safety: 500                                    # or a file; used once
    reward: runs/preferred_reward                  # learnt from hh_single_turn/train
    cost: harmlessness_head
    cost_low: 4
    cost_high: -4
    limit: 0.3
    delta: 0.05
    adapter: {r: 8, lora_alpha: 16}
    trainer: {beta: 0.02, num_generations: 4, per_device_train_batch_size: 16, max_completion_length: 64,
              learning_rate: 1.0e-4, max_steps: 100}
"""

from pathlib import Path
from typing import Any

from accelerate import PartialState
from pydantic import Field, model_validator

from trivet._files import canonical_json, sha256_text
from trivet.catalogue import method
from trivet.errors import ConfigError, DataError
from trivet.judges import Judge, resolve
from trivet.models.names import resolve_model
from trivet.train.answer_costs import AnswerCosts, answer_costs
from trivet.train.candidate_run import CandidateRun, on_first_process, write_known_result
from trivet.train.prompts import Prompt, read_prompts, tokenise_prompts
from trivet.train.rloo_method import Prepared, prepared, rloo_arguments
from trivet.train.running import TrainingContext
from trivet.train.safety_prompts import SetAside, ledger_folder, set_aside
from trivet.train.safety_test import BoundName, SafetyLedger, SafetyPlan
from trivet.train.settings import TrainConfig, anchored, data_digest

JudgeSpec = str | dict[str, Any]


class Config(TrainConfig):
    """Settings. ``trainer`` holds the fields of ``trl.RLOOConfig``: k as ``num_generations`` (2 by default),
    β as ``beta`` (0.05; the paper's code has 0.02, its script 0.1). ``held_out`` prompts validate."""

    reward: JudgeSpec = Field(description="judge of what is wanted; larger is better")
    cost: JudgeSpec = Field(description="judge that the cost is made of")
    cost_labels: tuple[str, ...] = Field((), description="labels that cost 1; all others cost 0")
    cost_low: float | None = Field(None, ge=-1e6, le=1e6, description="the judge's value that costs 0")
    cost_high: float | None = Field(None, ge=-1e6, le=1e6, description="the judge's value that costs 1")
    limit: float = Field(ge=-1e6, le=1e6, description="of the mean cost (tau)")
    delta: float = Field(
        0.1, gt=0, lt=0.5, description="greatest chance of returning a policy above the limit"
    )
    split: int = Field(1, ge=1, le=1000, description="tests that may share the safety prompts, and delta")
    test: BoundName | None = Field(
        None, description="bound of the safety test: clopper_pearson for labels and betting for a range"
    )
    safety: int | str = Field(
        description="prompts of the test: how many of the data, or a source of their own"
    )
    validation: str | None = Field(None, description="source of validation prompts, in the place of held_out")
    candidates: int = Field(
        4, ge=1, le=100, description="policies, evenly spaced in training, to choose from"
    )
    c1: float = Field(1.0, ge=0, le=100, description="inflation of the candidate's own uncertainty")
    c2: float = Field(1.0, ge=0, le=100, description="inflation of the interval of the coming test")
    multiplier: float = Field(1.0, gt=0, le=1e6, description="lambda at the beginning")
    multiplier_learning_rate: float = Field(0.1, ge=0, le=100, description="of log lambda")
    multiplier_max: float = Field(1e6, gt=0, le=1e12, description="greatest lambda")
    multiplier_delay: int = Field(0, ge=0, description="steps before lambda moves")
    buffer: int = Field(128, ge=2, le=1_000_000, description="recent costs that mean and deviation are of")
    return_clip: float = Field(50.0, gt=0, description="reward less KL is held within ± this")
    ledger: str | None = Field(None, description="folder of the ledger; by default beside the safety prompts")

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if (self.validation is None) == (self.held_out == 0):
            raise ValueError(
                "validation prompts: give held_out, how many of the data, or validation, a source"
            )
        if isinstance(self.safety, int) and self.safety < 2:
            raise ValueError("safety: a test needs at least 2 prompts")
        if "reward_clip_range" in self.trainer:
            raise ValueError("trainer.reward_clip_range: here return_clip bounds reward and KL together")
        return self

    def inputs(self, base: Path) -> dict[str, str]:
        """See ``TrainConfig.inputs``."""
        found = super().inputs(base)
        found |= {name: resolve(getattr(self, name), base=base).identity for name in ("reward", "cost")}
        sources = {"safety": self.safety, "validation": self.validation}
        return found | {name: data_digest(one, base) for name, one in sources.items() if isinstance(one, str)}

    def judges(self, base: Path) -> tuple[Judge, ...]:
        """See ``TrainConfig.judges``."""
        return (resolve(self.reward, base=base), resolve(self.cost, base=base))

    def prompts(self, base: Path) -> frozenset[str]:
        """See ``TrainConfig.prompts``; with those that choose the candidate."""
        sources = (self.data, self.validation)
        return frozenset(
            one.digest for name in sources if name for one in read_prompts(name, base=base).prompts
        )


@method(paper="2506.08266", version=1, takes=("Checkpoint", "DataSet"), gives=("Checkpoint",))
def train(config: Config, context: TrainingContext) -> None:
    """Train, choose and test; the checkpoint or adapter is in ``context.output`` where the test is passed.

    ``safety_test.json`` is there in either case, and ``context.facts["no_solution"]`` says that no policy is.

    Raises:
        ConfigError, DataError, ModelError, JudgeError: what the settings name is wrong.
        StudyError: the safety prompts were used before, or the model or the judge of reward knows them.
        TrainingError: a loss or a gradient is not finite, or no outcome of the test could pass.
    """
    arguments = rloo_arguments(config, context)
    costs = answer_costs(
        resolve(config.cost, base=context.base),
        config.cost_labels,
        config.cost_low,
        config.cost_high,
        context.where,
    )
    plan = _plan(config, context, costs)
    costs.try_out()
    source = config.safety if isinstance(config.safety, str) else config.data
    folder = ledger_folder(source, context.base) if config.ledger is None else context.base / config.ledger
    ledger = SafetyLedger(folder, plan)
    if PartialState().is_main_process:
        ledger.declare()
    context.say(f"limit and delta are written to {ledger.path}")
    reward = resolve(config.reward, base=context.base)
    known = {
        "the model": resolve_model(anchored(config.model, context.base)).trained_on,
        f"the judge of reward ({reward.name})": reward.training_prompts,
    }
    aside = set_aside(
        config.data, config.safety, config.validation, base=context.base, seed=config.seed, known=known
    )
    context.set_aside |= {one.digest for one in aside.safety}
    context.tell(aside.notes)
    plan.check_possible(len(aside.safety), context.where)
    with prepared(config, context, arguments, without=aside.digests) as made:
        safety, validation, too_long = _tokenised(aside, made, context)
        plan.check_possible(len(safety), context.where)
        earlier = on_first_process(lambda: ledger.earlier_result(safety))
        if earlier is not None and not earlier["passed"]:  # its folder is gone, its verdict is not
            write_known_result(context, costs, earlier)
            return
        left_out = {**aside.left_out, **too_long}
        run = CandidateRun(config, context, costs, plan, made, safety, validation, left_out)
        run.to_the_end(ledger)


def _plan(config: Config, context: TrainingContext, costs: AnswerCosts) -> SafetyPlan:
    """The test as it is written down before any prompt is read.

    Raises:
        ConfigError: the bound or the limit does not fit the costs.
    """
    if costs.mapping is None and config.test != "student":
        raise ConfigError(
            "the costs have no range, so no exact bound of their mean exists",
            where=context.where,
            hint="give cost_low and cost_high, the judge's values whose costs are 0 and 1, or cost_labels "
            "(['unsafe'] for a cost model with safety labels), or test: student, which is approximate",
        )
    if costs.mapping is not None and not 0 <= config.limit < 1:
        raise ConfigError(
            f"limit: {config.limit:g} bounds nothing, since costs are between 0 and 1",
            where=context.where,
            hint="a limit of the mean cost is at least 0 and below 1",
        )
    binary = costs.mapping is not None and costs.mapping.binary
    if config.test == "clopper_pearson" and not binary:
        raise ConfigError("test: clopper_pearson needs costs of 0 and 1 (cost_labels)", where=context.where)
    content = [config.model_dump(mode="json"), config.inputs(context.base)]
    return SafetyPlan(
        bound=config.test or ("clopper_pearson" if binary else "betting"),
        limit=config.limit,
        delta=config.delta,
        split=config.split,
        cost=costs.words(),
        judge=(costs.judge.name, costs.judge.identity),
        run=sha256_text(canonical_json(content)),
        seed=config.seed,
    )


def _tokenised(
    aside: SetAside, made: Prepared, context: TrainingContext
) -> tuple[list[Prompt], list[Prompt], dict[str, int]]:
    """The safety and the validation prompts with their token ids, and by reason how many of the former leave
    no room for an answer."""
    length = made.rollouts.engine.capabilities.context_length or 2**20
    kept, dropped = {}, {}
    for name, prompts in (("safety", aside.safety), ("validation", aside.validation)):
        kept[name], dropped[name] = tokenise_prompts(
            prompts, made.trainee.tokenizer, room=made.rollouts.max_tokens, context_length=length
        )
        context.tell([f"{count} {name} prompts dropped: {reason}" for reason, count in dropped[name].items()])
    kept["validation"] = kept["validation"] or made.held_out
    for name, prompts in kept.items():
        if len(prompts) < 2:
            raise DataError(f"{name}: {len(prompts)} prompts are left; at least 2 are needed")
    return kept["safety"], kept["validation"], dropped["safety"]
