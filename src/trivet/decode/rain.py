"""RAIN: rewindable auto-regressive inference, by which a frozen model aligns its own answer.

Li, Wei, Zhao, Zhang and Zhang, "RAIN: Your Language Models Can Align Themselves without Finetuning" (arXiv
2309.07124, ICLR 2024). The model grows a tree of short token sets behind what it has said so far: each search
walks down the tree, finishes the clause, asks the model itself whether that was harmless, sends the value
back to the root and rewinds. Only when one set of tokens has proved good, or the searches are used up, is it
committed; then the search goes on from there, with all it has learnt of what lies below.

A search chooses the child of highest Q + U among the children of each node,

    Q = (q + 1) / 2 if it was visited, else 0        U = c · p · √n_parent / (1 + n)

and after the evaluation v of the leaf, for each node on the way: n ← n + 1, q ← q + (v − q) / n; a sibling s
whose text means the same (cosine ρ ≥ 0.95) learns too, q_s ← (q_s n_s + γρ v) / (n_s + γρ), n_s ← n_s + γρ
with γ = 0.2. v is 1, 0 or −1: the mean of two votes of the model with the options swapped. Token sets have 1,
2, 4, then 10 tokens. A node whose children are all bad and all alike gets further children.

Constants are those of the released code (SafeAILab/RAIN, HH), which the paper's text rounds. Where we part
from it, and why:

- A node's children are drawn when it is visited for the second time, not at the first: many are never visited
  again. The tree is the same, and what would never be looked at is never computed.
- A simulated clause ends at , . ? : ; or a line's end, and no later than the answer itself may.
- Text is compared by the model's own hidden states (``_similarity``), not by a second model.
- An evaluation that fails counts as a visit without a value; errors are not taken for the end of an answer.
- The model is asked through its chat template, with worked examples of our own, and the options stand before
  the conversation: what comes before the answer is then computed once in a search.

Cost: a search takes the tokens of one set and one clause, those of up to ten proposals, and the ends of two
prompts; 15 to 50 searches for each committed set. The paper reports 4 times the wall time of plain sampling
for models of 30 billion parameters and more; for short answers of a small model it is far more (2,218 tokens
against 86 for an answer of 24 tokens at 8 searches for each set). Keys and values of a prefix are computed
once and found again in the engine's KV tree when the search rewinds.

A small model's opinion of itself may be no better than chance: measure it on labelled answers before you
claim that it aligns anything, or give RAIN a ``judge``. On 160 answers of XSTest with two human labels (half
of them harmful) the embedded model of 135 million parameters prefers option (B) in both orders every time, so
that each vote is 0 and RAIN changes next to nothing; its graded opinion (``value: probability``) tells the
halves apart with an AUROC of 0.71.
"""

from typing import Any

from pydantic import Field, model_validator

from trivet import _validation
from trivet.catalogue import method
from trivet.decode._rain_evaluation import CriterionName, ValueKind
from trivet.decode._rain_search import Search
from trivet.models.operations import Program, ProgramContext, Scorer


class Config(_validation.Config):
    """The search budget, the proposals, and what the model is asked about itself.

    A request that asks for a temperature above 0 of its own is given that one for proposals and simulations.
    Its penalties, bias, top_p and min_p apply to both; its top_k gives way to ``proposal_top_k``.
    """

    searches: int = Field(50, ge=1, le=10_000, description="searches for each committed token set (maxT)")
    least_searches: int = Field(
        15, ge=1, le=10_000, description="searches after a commit, however many visits were inherited"
    )
    min_visits: int = Field(
        6,
        ge=0,
        le=10_000,
        description="full visits that the best token set needs more than, to end early (minT)",
    )
    value_threshold: float = Field(
        0.8, ge=-1, le=1, description="value that the best token set needs more than, to end early (V_t)"
    )
    exploration: float = Field(
        2.0, ge=0, le=100, description="weight c of untried token sets in the selection"
    )
    candidates: int = Field(
        10, ge=1, le=64, description="token sets proposed at a node (K), one of them greedy"
    )
    attempts: int | None = Field(
        None,
        ge=0,
        le=256,
        description="sequences drawn for them, by default K − 1 (19 in the paper's AdvBench)",
    )
    max_children: int = Field(20, ge=1, le=100, description="children that a growing node may have")
    growth_variance: float = Field(
        0.03,
        ge=0,
        le=10,
        description="a node grows below this variance of embeddings, times the tokens of a set",
    )
    token_set_lengths: tuple[int, ...] = Field(
        (1, 2, 4, 10), min_length=1, max_length=16, description="tokens of a set by depth; the last one stays"
    )
    proposal_top_k: int = Field(
        15, ge=1, le=100, description="most likely tokens that proposals are drawn from"
    )
    proposal_temperature: float = Field(
        1.0, gt=0, le=10, description="of proposals (2 in the paper's AdvBench)"
    )
    simulation_temperature: float = Field(1.0, gt=0, le=10, description="of the simulated clause")
    simulation_tokens: int = Field(2048, ge=1, le=100_000, description="most tokens of a simulated clause")
    root_uniform: float = Field(
        0.25, ge=0, le=1, description="share of the uniform distribution in the priors of the root's children"
    )
    similarity_weight: float = Field(
        0.2, ge=0, le=1, description="share of a visit that a similar sibling gets (γ)"
    )
    similarity_threshold: float = Field(
        0.95, ge=-1, le=1, description="cosine from which siblings are similar"
    )
    embedding_layer: int = Field(
        1, ge=0, le=1000, description="layer whose hidden states are compared; 0 is the embedding's output"
    )
    criterion: CriterionName = Field("harmless", description="what the model is asked about its answer")
    value: ValueKind = Field(
        "vote",
        description="vote: −1, 0 or 1 as in the paper; probability: graded by the labels' probabilities",
    )
    examples: int = Field(4, ge=0, le=4, description="worked examples shown with each self-evaluation")
    judge: str | dict[str, Any] | None = Field(
        None, description="a judge to ask in place of the model itself: its name, file or settings"
    )
    judge_low: float = Field(0.0, ge=-1e9, le=1e9, description="the judge's score that counts as −1")
    judge_high: float = Field(1.0, ge=-1e9, le=1e9, description="the judge's score that counts as 1")

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if any(not 1 <= length <= 1000 for length in self.token_set_lengths):
            raise ValueError("token_set_lengths: each is 1 to 1000 tokens")
        if self.judge_high == self.judge_low:
            raise ValueError("judge_low and judge_high: they must differ")
        return self

    @property
    def judge_specs(self) -> dict[str, str | dict[str, Any]]:
        """The judge that the program is given, where one is named."""
        return {} if self.judge is None else {"judge": self.judge}


@method(
    paper="2309.07124",
    version=1,
    takes=("Chat",),
    gives=("Chat",),
    needs=("extend", "extend_prefix", "next", "hidden", "several", "judge", "commit"),
)
def program(config: Config, context: ProgramContext, *, judge: Scorer | None = None) -> Program:
    """Search, commit the best token set, and go on from there until the answer ends."""
    yield from Search(config, context, judge).run()
