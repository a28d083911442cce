"""RAIN the way its released code runs it, with plain transformers: batch 1 and no cache between sequences.

Written from the paper (arXiv 2309.07124) and what is known of the released code, apart from ours, so that
equal choices say something. A prefix is encoded anew whenever a sequence begins, keys and values live inside
that one sequence, and the logits of a prefix that was seen are remembered, as there. Two things differ from
it:

- Token sets below a leaf are drawn when the search comes by again, in the order of our random streams; those
  that nobody came back to are drawn by ``propose_unseen`` afterwards, where they disturb no stream.
- Texts are compared by the first block of the model, in place of a second model that embeds every ancestor.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from trivet.decode._rain_evaluation import CRITERIA, SelfEvaluation
from trivet.decode.rain import Config
from trivet.models.operations import Tokens

ENDS = (",", ".", "?", ":", ";", "\n")


@dataclass(eq=False)
class Branch:
    """A node of the official search."""

    tokens: Tokens
    depth: int
    prior: float
    ended: bool = False
    asked: bool = False
    n: float = 0.0
    fn: int = 0
    q: float = 0.0
    embedding: torch.Tensor | None = None
    children: list["Branch"] = field(default_factory=list)


class Official:
    """RAIN with plain transformers, batch 1.

    Args:
        model, tokenizer: of transformers.
        config: the search budget.
    """

    def __init__(self, model: Any, tokenizer: Any, config: Config) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.eos = int(tokenizer.eos_token_id)
        self.forwarded = 0

    def answer(self, chat: list[dict[str, Any]], seed: int, max_tokens: int) -> list[dict[str, Any]]:
        """The committed steps: tokens, searches, and the visits of all candidates."""
        self.seed, self.random = seed, np.random.default_rng([seed, 1])
        self.operation = 0  # random streams are numbered as the engine numbers its operations
        self.remembered: dict[Tokens, torch.Tensor] = {}
        self.visited: dict[Branch, Tokens] = {}
        self.values: dict[str, float] = {}
        self.prompt, self.limit = self.render(chat), max_tokens
        self.asking = SelfEvaluation(
            CRITERIA[self.config.criterion],
            "vote",
            self.config.examples,
            chat,
            self.encode,
            self.render,
            None,
        )
        root, answer, steps = Branch((), 0, 1.0), Tokens(), []
        while True:
            first = count = root.fn
            while count < max(self.config.searches, first + self.config.least_searches):
                self.search(root, answer)
                count += 1
                best = max(root.children, key=lambda child: (child.n, child.q), default=None)
                if best and best.fn > self.config.min_visits and best.q > self.config.value_threshold:
                    break
            best = max(root.children, key=lambda child: (child.n, child.q))
            visits = [(child.tokens, round(child.n, 3), child.fn) for child in root.children]
            steps.append({"tokens": best.tokens, "searches": count - first, "visits": visits})
            answer, root = answer + best.tokens, best
            if root.ended or len(answer) >= max_tokens:
                return steps
            self.mix(root)

    def render(self, chat: list[dict[str, Any]]) -> Tokens:
        return tuple(self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False))

    def encode(self, text: str) -> Tokens:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def logits(self, prefix: Tokens, cache: Any = None) -> tuple[torch.Tensor, Any]:
        """Logits after a prefix: remembered, or with the sequence's own cache, or encoded anew."""
        if prefix in self.remembered:
            return self.remembered[prefix], None
        fed = prefix[-1:] if cache is not None else prefix
        output = self.model(torch.tensor([fed]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        self.forwarded += len(fed)
        self.remembered[prefix] = output.logits[0, -1].float()
        return self.remembered[prefix], output.past_key_values

    def pick(self, logits: torch.Tensor, top_k: int, random: np.random.Generator | None) -> int:
        if random is None:
            return int(logits.argmax())
        if top_k:
            logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
        cumulative = logits.double().softmax(-1).cumsum(-1)
        return int((cumulative <= random.random() * cumulative[-1]).sum())

    def stream(self) -> np.random.Generator:
        self.operation += 1
        return np.random.default_rng([self.seed, 2, self.operation, 0])

    def share(self, logits: torch.Tensor, token: int) -> float:
        best = logits.topk(self.config.proposal_top_k).values
        return min(1.0, float((logits[token] - torch.logsumexp(best, -1)).exp()))

    def expand(self, node: Branch, state: Tokens, root: bool) -> None:
        length = min(self.config.token_set_lengths[min(node.depth, 3)], self.limit - len(state))
        prefix = self.prompt + state
        self.operation += not node.asked  # our program keeps what it asked for
        node.asked = True
        logits, _ = self.logits(prefix)
        found: dict[tuple[Tokens, bool], float] = {}
        if length == 1:
            best = logits.log_softmax(-1).topk(self.config.candidates)
            for value, token in zip(best.values.exp().tolist(), best.indices.tolist()):
                found[((), True) if token == self.eos else ((token,), False)] = value
        else:
            draws = range(self.config.candidates - 1)
            firsts = [self.pick(logits, self.config.proposal_top_k, self.random) for _ in draws]
            for place, first in enumerate([int(logits.argmax()), *firsts]):
                key, probability = self.sequence(prefix, logits, first, length, sampled=place > 0)
                found.setdefault(key, probability)
            greedy, *others = found.values()
            if others:
                greedy = max(min(greedy, sum(others)), max(others) + min(others))
            found[next(iter(found))] = greedy
        total = sum(found.values())
        node.children = [
            Branch(tokens, node.depth + 1, p / total, ended) for (tokens, ended), p in found.items()
        ]
        if root:
            self.mix(node)

    def propose_unseen(self) -> None:
        """Draw the proposals below leaves that no search came back to, as the released code does at once."""
        for node, state in self.visited.items():
            if not (node.children or node.ended or len(state) >= self.limit):
                self.expand(node, state, root=False)

    def sequence(
        self, prefix: Tokens, logits: torch.Tensor, first: int, length: int, *, sampled: bool
    ) -> tuple[tuple[Tokens, bool], float]:
        """A sequence that begins with ``first``, and the product of its truncated probabilities."""
        probability, cache = self.share(logits, first), None
        if first == self.eos:
            return ((), True), probability
        tokens: Tokens = (first,)
        random = self.stream()
        while len(tokens) < length:
            logits, cache = self.logits(prefix + tokens, cache)
            token = self.pick(logits, self.config.proposal_top_k, random if sampled else None)
            probability *= self.share(logits, token)
            if token == self.eos:
                return (tokens, True), probability
            tokens += (token,)
        return (tokens, False), probability

    def mix(self, node: Branch) -> None:
        u = self.config.root_uniform
        for child in node.children:
            child.prior = (1 - u) * child.prior + u / len(node.children)

    def search(self, root: Branch, answer: Tokens) -> None:
        node, path, state = root, [root], answer
        while node.fn and not node.ended and len(state) < self.limit:
            if not node.children:
                self.expand(node, state, node is root)
            parent = node
            node = max(parent.children, key=lambda child: self.score(child, parent.n))
            path.append(node)
            state += node.tokens
        self.visited[node] = state
        tail = self.simulate(node, state)
        value = self.evaluate(state + tail)
        embeddings = self.embed(path, state, tail)
        for place, (visited, embedding) in enumerate(zip(path, embeddings)):
            visited.n, visited.fn = visited.n + 1, visited.fn + 1
            if embedding is not None:
                mean = visited.embedding
                visited.embedding = embedding if mean is None else mean + (embedding - mean) / visited.fn
                for other in path[place - 1].children:
                    if other is visited or other.embedding is None:
                        continue
                    cosine = float(torch.cosine_similarity(visited.embedding, other.embedding, dim=0))
                    if cosine >= self.config.similarity_threshold:
                        weight = self.config.similarity_weight * cosine
                        other.q = (other.q * other.n + weight * value) / (other.n + weight)
                        other.n += weight
            visited.q += (value - visited.q) / visited.n

    def score(self, child: Branch, parent: float) -> float:
        q = (child.q + 1) / (2 + 1e-5) if child.n else 0.0
        return q + self.config.exploration * child.prior * math.sqrt(parent) / (1 + child.n)

    def simulate(self, node: Branch, state: Tokens) -> Tokens:
        tail, cache, random = Tokens(), None, self.random
        while not node.ended and len(state + tail) < self.limit:
            text = self.tokenizer.decode(state + tail, skip_special_tokens=True)
            if not text or text.endswith(ENDS):
                break
            if not tail:
                self.operation += 1
                node.asked = True
            elif len(tail) == 1:
                random = self.stream()
            logits, cache = self.logits(self.prompt + state + tail, cache)
            token = self.pick(logits, 0, random)
            if token == self.eos:
                break
            tail += (token,)
        return tail

    def evaluate(self, tokens: Tokens) -> float:
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        if text not in self.values:
            asked = self.asking.questions(text)
            self.operation += len(asked)
            replies = [self.logits(question.prefix)[0].log_softmax(-1).numpy() for question, _ in asked]
            self.values[text] = self.asking.value(asked, replies) or 0.0
        return self.values[text]

    def embed(self, path: list[Branch], state: Tokens, tail: Tokens) -> list[torch.Tensor | None]:
        """For each node of the path, the mean first-block state of its tokens and all that follow."""
        whole = self.prompt + state + tail
        if tail or (path[-1].tokens and not path[-1].fn):
            self.operation += 1
        base = self.model.model
        layers, base.layers = base.layers, base.layers[:2]  # the last one's states come after the norm
        states = base(torch.tensor([whole]), output_hidden_states=True, use_cache=False).hidden_states[1][0]
        base.layers = layers
        found: list[torch.Tensor | None] = [None] * len(path)
        start = len(whole) - len(tail)
        for place in range(len(path) - 1, 0, -1):
            start -= len(path[place].tokens)
            total = states[start:].sum(0).double()
            found[place] = total / total.norm() if start < len(whole) else None
        return found
