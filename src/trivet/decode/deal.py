"""DeAL: search for the answer that the model finds likely and that the objectives prefer.

"DeAL: Decoding-time Alignment for Large Language Models" (arXiv 2402.06147). Before a token is fixed, each of
the k most likely ones is tried: the model goes on greedily for l tokens, and the text that comes of it is
scored by any mix of objectives: keywords to mention, a length, a regular expression or JSON schema, a judge's
score, a Python function. With the answer's tokens y and the prompt p, the candidate

    c(y_t) = log P(y_{1:t} | p) + λ · h(y_{1:t+l}, p),        h = Σ_i w_i · h_i

that is largest is kept (the best b of them with beams), so what is preferred can be changed for each request
without training. The lookahead is only looked at: its own probability plays no part and it is not committed.

A candidate that violates a hard constraint for good is not kept while there is another, and where all k do,
less likely ones are tried (up to 4096); where only its rollout does, h_i = −1 (else 0). Soft constraints give
a degree, 1 at best; judges and functions give their own unit, so set their weights with λ in mind. A
candidate that could not be scored is never kept while another was scored; where none was, the likeliest is
kept and the trace says so. A judge's score must not measure the system that it steers.

k = 1 or λ = 0 with one beam is greedy decoding; λ = 0 with b beams is beam search without length penalty;
l = 0 looks at the candidate token alone. The search is deterministic: temperature and filters play no part,
penalties and bias do. With one beam the answer streams token by token, with more it comes at the end.

::

    decode:
      method: deal
      heuristic_weight: 2
      objectives:
        - {type: keywords, concepts: [dog, frisbee, catch], weight: 5}
        - {type: length, max_words: 30, kind: hard}
        - {type: regex, pattern: "(?i)thank", match: search}
        - {type: json_schema, definition: {type: object, required: [name]}, kind: hard}
        - {type: judge, judge: harmlessness_head, weight: 0.5}
        - {type: function, function: "my_module:my_function"}  # f(prompt, continuation, final) -> float

What it costs: up to (k − 1) · l + 1 forward tokens for each token of the answer and beam (the rollout of the
branch that is kept is used again, and all rollouts of a step are one batch), k texts to score for each of
them. The paper's k, l, λ and b are not known to us; the defaults are ours.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from trivet import _validation
from trivet.catalogue import method
from trivet.decode._branches import Branch, expand, keep, piece, whole
from trivet.decode._deal_trace import record, rounded
from trivet.decode._functions import fingerprint
from trivet.decode._heuristic import Heuristic, Text
from trivet.decode._lookahead import Lookahead
from trivet.decode._objectives import Function, Judged, Objective, labels
from trivet.models.operations import Commit, Operation, Program, ProgramContext, Scorer
from trivet.models.torch_engine.detokenizer import Detokenizer, cut

_WIDEST = 4096  # candidates that are tried where all others violate a hard constraint


class Config(_validation.Config):
    """What is searched for, and how far the search looks."""

    objectives: tuple[Objective, ...] = Field(
        min_length=1, max_length=32, description="what the answer should be; each has a type and a weight"
    )
    candidates: int = Field(8, ge=1, le=1024, description="k: next tokens that are tried")
    lookahead: int = Field(16, ge=0, le=4096, description="l: tokens that the model goes on greedily")
    heuristic_weight: float = Field(
        1.0, ge=0, le=1e6, description="λ: nats of log-probability that one unit of h is worth"
    )
    beam_width: int = Field(1, ge=1, le=64, description="b: branches that are kept at each step")
    normalize: Literal["none", "running"] = Field(
        "none", description="parametric scores as they are, or standardised by those seen in the request"
    )

    @property
    def judge_specs(self) -> dict[str, str | dict[str, Any]]:
        """The judges that the objectives name, by the keyword under which ``program`` takes each."""
        named = zip(labels(self.objectives), self.objectives, strict=True)
        return {f"judge_{name}": one.judge for name, one in named if isinstance(one, Judged)}

    @property
    def reads_chat(self) -> bool:
        """Whether an objective is shown the chat, or a function the prompt."""
        return any(isinstance(one, Judged | Function) for one in self.objectives)

    def content(self) -> dict[str, Any]:
        """What determines the results: the settings, functions by their source; judges are not in it."""
        settings = self.model_dump(mode="json")
        for objective, entry in zip(self.objectives, settings["objectives"], strict=True):
            if isinstance(objective, Judged):
                del entry["judge"]
            elif isinstance(objective, Function):
                entry["source"] = fingerprint(objective.function)
        return settings


@method(
    paper="2402.06147",
    version=1,
    takes=("Chat", "JudgeArtifact"),
    gives=("Chat",),
    needs=("extend_prefix", "next", "several", "judge", "commit"),
)
def program(config: Config, context: ProgramContext, **judges: Scorer) -> Program:
    """Keep the best branches by c(y_t), token by token, until they have ended."""
    context.trace.append(note := _begin(config))
    room, _ = context.limit
    ahead = Lookahead(context, config.candidates)
    by_name = {key.removeprefix("judge_"): judge for key, judge in judges.items()}
    heuristic = Heuristic(config.objectives, by_name, context, config.normalize)
    written = Detokenizer(context.decode, context.stop)
    beams = [Branch(ended=None if room > 0 else "length")]
    while not all(beam.ended for beam in beams):
        live = [beam for beam in beams if not beam.ended]
        finished = [beam for beam in beams if beam.ended]
        candidates, hopeless = yield from grow(live, finished, ahead, heuristic, room, config, context)
        if config.heuristic_weight and len(candidates) > 1:
            candidates = yield from assess(candidates, ahead, heuristic, room, config, context)
        beams = keep([*finished, *candidates], config.beam_width)
        record(note, candidates, [*finished, *hopeless], beams, context)
        ahead.forget_all_but(beam.tokens for beam in beams if not beam.ended)
        if config.beam_width == 1:
            if beams[0].ended:
                yield from _conclude(note, heuristic, beams[0], context)
            yield Commit(piece(beams[0], written))
    if config.beam_width > 1 or room < 1:
        if config.heuristic_weight:
            beams = yield from _best_first(beams, heuristic, context)
        yield from _conclude(note, heuristic, beams[0], context)
        yield Commit(whole(beams[0], context))


def grow(
    live: Sequence[Branch],
    finished: Sequence[Branch],
    ahead: Lookahead,
    heuristic: Heuristic,
    room: int,
    config: Config,
    context: ProgramContext,
) -> Generator[Operation, Any, tuple[list[Branch], list[Branch]]]:
    """The branches worth a look ahead, and those that violate a hard constraint for good.

    Where all k candidates do, less likely ones are tried. Where those do too, the k are all there is.
    """
    answers = [beam.tokens for beam in live]
    following = yield from ahead.following(answers)
    first: list[Branch] = []
    width = config.candidates
    while True:
        grown = [expand(beam, found, room, context) for beam, found in zip(live, following, strict=True)]
        branches = [replace(one, parent=index) for index, group in enumerate(grown) for one in group]
        if not config.heuristic_weight:
            return branches, []
        branches = [
            replace(one, dead=heuristic.violated(_seen(one.text, bool(one.ended), context)))
            for one in branches
        ]
        hopeful = [branch for branch in branches if not branch.dead]
        if hopeful:
            return hopeful, [branch for branch in branches if branch.dead][: len(answers) * config.candidates]
        first = first or branches
        if any(not beam.dead for beam in finished):
            return [], first
        # What follows a text that violates a constraint for good does so too; k = 1 is greedy decoding.
        if width >= _WIDEST or config.candidates == 1 or all(beam.dead for beam in live):
            return first, []
        width = min(width * 8, _WIDEST)
        following = yield from ahead.wider(answers, width)


def assess(
    branches: Sequence[Branch],
    ahead: Lookahead,
    heuristic: Heuristic,
    room: int,
    config: Config,
    context: ProgramContext,
) -> Generator[Operation, Any, list[Branch]]:
    """The branches with their lookahead and c(y_t); without h where it could not be scored."""
    lengths = [0 if one.ended else min(config.lookahead, room - len(one.tokens)) for one in branches]
    rolled = yield from ahead.rollouts([(one.tokens, n) for one, n in zip(branches, lengths, strict=True)])
    texts = []
    for branch, rollout in zip(branches, rolled, strict=True):
        tokens = (*branch.tokens, *rollout.tokens)
        text, stopped = cut(context.decode(tokens), context.stop) if rollout.tokens else (branch.text, False)
        final = bool(branch.ended) or rollout.ended or stopped or len(tokens) >= room
        texts.append((text, _seen(text, final, context)))
    scores = yield from heuristic.score([seen for _, seen in texts])
    assessed = []
    for branch, (text, _), scored in zip(branches, texts, scores, strict=True):
        score = branch.logprob + config.heuristic_weight * (scored.total or 0.0)
        lookahead = text[len(branch.text) :] if text.startswith(branch.text) else text
        assessed.append(replace(branch, lookahead=lookahead, scored=scored, score=score))
    return assessed


def _seen(text: str, final: bool, context: ProgramContext) -> Text:
    """What people would see; the bytes of a character that is not whole yet are left out."""
    return Text(context.visible(text.rstrip("\ufffd")), final)


def _best_first(
    beams: Sequence[Branch], heuristic: Heuristic, context: ProgramContext
) -> Generator[Operation, Any, list[Branch]]:
    """Whole answers, those that meet every hard constraint first."""
    met = []
    for beam in beams:
        satisfied = yield from heuristic.satisfied(_seen(beam.text, True, context))
        met.append(all(satisfied.values()))
    order = sorted(range(len(beams)), key=lambda index: not met[index])
    return [beams[index] for index in order]


def _conclude(
    note: dict[str, Any], heuristic: Heuristic, answer: Branch, context: ProgramContext
) -> Generator[Operation, Any, None]:
    note["satisfied"] = yield from heuristic.satisfied(_seen(answer.text, True, context))
    if answer.scored is not None:
        note["values"] = rounded(answer.scored.values)


def _begin(config: Config) -> dict[str, Any]:
    return {
        "method": "deal",
        "objectives": labels(config.objectives),
        "candidates": config.candidates,
        "lookahead": config.lookahead,
        "heuristic_weight": config.heuristic_weight,
        "beam_width": config.beam_width,
        "steps": 0,
        "choices": [],  # where the search departs from what the model alone would have kept
    }
