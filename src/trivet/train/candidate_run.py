"""A run of HC-RLHF whose prompts are read and whose models are loaded: train, choose, test, write."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from trivet._files import write_json
from trivet.judges import resolve
from trivet.train.answer_costs import AnswerCosts
from trivet.train.constrained_trainer import ConstrainedTrainer
from trivet.train.cost_multiplier import ConstraintSettings, CostMultiplier
from trivet.train.policy_candidates import Candidate, Snapshots, best, measured
from trivet.train.prompts import Prompt
from trivet.train.rloo_method import Prepared, trainer_options
from trivet.train.rollouts import Rollout, answered
from trivet.train.running import TrainingContext, finite
from trivet.train.safety_report import outcome, ranking_warning, report, statement
from trivet.train.safety_test import SafetyLedger, SafetyPlan, decide, quantiles
from trivet.train.sampled_answers import DRAWN, Wanted

if TYPE_CHECKING:
    from trivet.train.high_confidence_rlhf import Config

REPORT = "safety_test.json"
_Found = TypeVar("_Found")


def on_first_process(find: Callable[[], _Found]) -> _Found:
    """What ``find`` returns in the first process, in all of them."""
    found = [find() if PartialState().is_main_process else None]
    broadcast_object_list(found)
    return found[0]  # type: ignore[return-value]  # every process has that of the first


def write_known_result(context: TrainingContext, costs: AnswerCosts, tested: Mapping[str, Any]) -> None:
    """Write the result of this very run's test, which the ledger has and whose folder is gone."""
    warnings = ["Read out of the ledger: this very run was tested before, so nothing was trained again."]
    if costs.ranking_only:
        warnings.append(ranking_warning(costs.judge.name, tested["tau"], {}))
    _write(context, {**tested, "statement": statement(tested, warnings)}, {})


def _write(context: TrainingContext, result: dict[str, Any], validation: Mapping[str, Any]) -> None:
    for line in result["statement"]:
        context.say(line)
    context.facts |= {"safety_test": result, "notices": result["statement"]}
    context.facts["metrics"] = {
        "safety test": result["outcome"],
        "safety prompts": result["n"],
        "mean cost": result["mean"],
        "upper bound of the mean cost": result["bound"],
        "limit": result["tau"],
        "delta": result["test_delta"],
        "bound by": result["test"],
        **validation,
    }
    if not result["passed"]:
        context.facts["no_solution"] = outcome(result)
    if PartialState().is_main_process:
        write_json(context.output / REPORT, result)


class CandidateRun:
    """A run whose prompts are read and whose models are loaded."""

    def __init__(
        self,
        config: "Config",
        context: TrainingContext,
        costs: AnswerCosts,
        plan: SafetyPlan,
        made: Prepared,
        safety: list[Prompt],
        validation: list[Prompt],
        left_out: Mapping[str, int],
    ) -> None:
        self.config, self.context, self.costs, self.plan, self.made = config, context, costs, plan, made
        self.safety, self.validation, self.left_out = safety, validation, left_out
        self.settings = ConstraintSettings(
            limit=config.limit,
            delta=plan.test_delta,
            test_prompts=len(safety),
            c1=config.c1,
            c2=config.c2,
            clip=config.return_clip,
            initial=config.multiplier,
            learning_rate=config.multiplier_learning_rate,
            largest=config.multiplier_max,
            delay=config.multiplier_delay,
            buffer=config.buffer,
        )
        self.multiplier = CostMultiplier(self.settings)
        self.trainer = ConstrainedTrainer(
            reward_judge=resolve(config.reward, base=context.base),
            costs=costs,
            multiplier=self.multiplier,
            **trainer_options(made, made.prompts),
        )
        self.snapshots = Snapshots(made.trainee.model, context.work / "candidates", config.candidates)
        self.trainer.add_callback(self.snapshots)

    def to_the_end(self, ledger: SafetyLedger) -> None:
        """Train, choose, test, and write what is returned."""
        reference = self._reference()
        warnings = []
        if self.costs.ranking_only:
            warnings.append(ranking_warning(self.costs.judge.name, self.config.limit, reference))
            self.context.tell(warnings)
        self.context.fit(self.trainer)
        PartialState().wait_for_everyone()
        figures = self._candidates()
        chosen = best(figures, self.config.limit)
        digest = self.snapshots.load(chosen.step)
        self.context.say(
            f"candidate: step {chosen.step}, predicted bound {chosen.bound:.4g} (limit {self.config.limit:g})"
        )
        tested = on_first_process(lambda: ledger.test(digest, self.safety, lambda: self._test(chosen)))
        result = {
            **tested,
            "statement": statement(tested, warnings),
            "candidate": finite(chosen.figures()),
            "candidates": [finite(one.figures()) for one in figures],
            "reference_costs": reference,
            "ranking_only_cost": self.costs.ranking_only,
            "n_c": "the number of costs in the buffer, in C_aug and in the step of lambda; of validation "
            "costs where a candidate is chosen",
            "kappa": self.settings.kappa(max(2, len(self.multiplier.costs))),
            "lambda": math.exp(self.multiplier.log_multiplier),
        }
        self.context.facts["steps"] = self.trainer.state.global_step
        if result["passed"]:
            self.trainer.save_model(str(self.context.output))
        figures_of_it = {
            "validation reward": finite(chosen.reward),
            "validation KL, nats an answer": chosen.kl,
        }
        _write(self.context, result, figures_of_it)

    def _answers(self, name: str, prompts: list[Prompt], seed: int) -> list[Rollout]:
        return answered(
            self.made.rollouts.engine,
            prompts,
            Wanted(1, DRAWN),
            max_tokens=self.made.rollouts.max_tokens,
            seed=self.config.seed + seed,
            path=self.context.work / f"{name}.jsonl",
            progress=lambda done, total: self.context.say(
                f"{name.replace('/', ', ')}: {done} of {total} answered"
            ),
        )

    def _reference(self) -> dict[str, Any]:
        """Costs of the model before training, whose weights the engine still has."""
        with PartialState().main_process_first():  # the others find the answers on the disk
            answers = self._answers("validation/reference", self.validation, 1)
        return quantiles(self.costs.with_unscored(answers)[0], self.config.limit)

    def _candidates(self) -> list[Candidate]:
        found = []
        for step in self.snapshots.steps(self.trainer.state.max_steps):
            self.snapshots.load(step)
            name = f"validation/step-{step}"
            self.made.rollouts.load(self.trainer.accelerator.unwrap_model(self.trainer.model), name)
            with PartialState().main_process_first():
                answers = self._answers(name, self.validation, 1)
            found.append(measured(self.trainer, self.costs, self.settings, step, answers))
        return found

    def _test(self, chosen: Candidate) -> dict[str, Any]:
        """The look at the safety prompts."""
        name = f"safety/step-{chosen.step}"
        self.made.rollouts.load(self.trainer.accelerator.unwrap_model(self.trainer.model), name)
        answers = self._answers(name, self.safety, 2)
        costs, unscored = self.costs.with_unscored(answers)
        decision = decide(
            costs,
            bound=self.plan.bound,
            limit=self.plan.limit,
            delta=self.plan.test_delta,
            missing=unscored if self.costs.mapping is None else 0,
        )
        return report(
            self.plan,
            decision,
            unscored=unscored,
            cut=sum(not answer.ended for one in answers for answer in one.answers),
            judge_knew=len(self.costs.judge.training_prompts & {one.digest for one in self.safety}),
            left_out=self.left_out,
            max_tokens=self.made.rollouts.max_tokens,
        )
