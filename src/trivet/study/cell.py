"""A cell of a study: one system on one evaluation, with the addresses of its steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from trivet.study.address import Description
from trivet.study.evaluations import Evaluation, sample_text
from trivet.study.generate import Failure
from trivet.study.manifest import Manifest
from trivet.study.systems import Prepared


@dataclass
class Cell:
    """One system on one evaluation, and how far it is."""

    system: Prepared
    evaluation: Evaluation
    ids: tuple[str, ...]
    max_tokens: int
    seed: int
    deterministic: bool
    judges: tuple[str, ...] = ()
    answers: Manifest | None = None
    scored: Manifest | None = None
    failure: Failure | None = None
    failed_step: str = ""

    @property
    def name(self) -> str:
        """As it is shown."""
        return f"{self.system.name} × {self.evaluation.label}"

    @property
    def journal(self) -> Description:
        """What determines one answer, apart from its prompt and settings, which are its key."""
        return Description(
            method="study/answers",
            version=1,
            config={"task": self.evaluation.label, "deterministic": self.deterministic},
            inputs={"system": self.system.identity},
            seed=self.seed,
        )

    @property
    def generation(self) -> Description:
        """The generate step."""
        return Description(
            method="study/generate",
            version=1,
            config={
                "task": self.evaluation.label,
                "args": self.evaluation.generating_args,
                "max_tokens": self.evaluation.entry.max_tokens or self.max_tokens,
                "epochs": self.evaluation.epochs,
                "deterministic": self.deterministic,
            },
            inputs={
                "system": self.system.identity,
                "prompts": self.evaluation.rows_digest(self.ids),
                "task": self.evaluation.source,
            },
            seed=self.seed,
        )

    @property
    def scoring(self) -> Description:
        """The score step."""
        return Description(
            method="study/score",
            version=1,
            config={"args": self.evaluation.generating_args, "score": self.evaluation.entry.score},
            inputs={
                "answers": self.generation.address,
                "task": self.evaluation.source,
                **{f"judge {number}": identity for number, identity in enumerate(self.judges)},
            },
        )


def latency_prompts(cells: Sequence[Cell], count: int) -> list[str]:
    """The first prompts of each evaluation in turn, ``count`` in all (fewer where there are fewer)."""
    texts: list[list[str]] = []
    for cell in cells:
        samples = cell.evaluation.task(cell.ids[:count]).dataset
        texts.append([sample_text(sample) for sample in samples])
    longest = max((len(column) for column in texts), default=0)
    mixed = [column[row] for row in range(longest) for column in texts if row < len(column)]
    return mixed[:count]
