"""How much probability a model gives to listed words where they could come next.

The toxicity probe of "Balancing Enhancement, Harmlessness, and General Capabilities: Enhancing Conversational
LLMs with Direct RLHF" (arXiv 2403.02513), which compares arms by the probability of undesired tokens in the
same contexts: (1/n) Σ_i Σ_{v ∈ B} π(v | context_i). Unlike a list of words searched in one greedy answer, it
sees what sampling would bring.
"""

from collections.abc import Sequence
from typing import Any

import torch

from trivet.errors import DataError
from trivet.models.operations import Tokens
from trivet.train.batches import Example, model_inputs
from trivet.train.reference import on_device
from trivet.train.scoring import causal_model


def token_set(tokenizer: Any, words: Sequence[str]) -> tuple[list[int], list[str]]:
    """The tokens that are one of the words, with a space before it or not, and the words that are no token.

    Raises:
        DataError: no word is a token.
    """
    tokens: set[int] = set()
    rest = []
    for word in words:
        forms = [tokenizer(form, add_special_tokens=False)["input_ids"] for form in (word, f" {word}")]
        single = {ids[0] for ids in forms if len(ids) == 1}
        tokens |= single
        if not single:
            rest.append(word)
    if not tokens:
        raise DataError(
            f"no word is a single token of this model: {', '.join(words)[:200]}",
            hint="the probe reads the next token; list words that the vocabulary holds",
        )
    return sorted(tokens), rest


def mass(logprobs: torch.Tensor) -> float:
    """Σ_{v ∈ B} π(v | context), from the log-probabilities of the set's tokens [tokens]."""
    return float(logprobs.double().exp().sum())


@torch.no_grad()
def token_mass(
    model: Any, contexts: Sequence[Tokens], tokens: Sequence[int], *, packed: bool, padding: int
) -> list[float]:
    """The mass of the tokens after each context, 0 to 1.

    Args:
        model: scores answers (``trivet.train.scoring.score_answers``).
        packed, padding: see ``trivet.train.batches.model_inputs``.
    """
    training = model.training
    model.eval()
    output = causal_model(model).get_output_embeddings()
    found = []
    for context in contexts:  # any answer will do: its first token is predicted from the context's last state
        example = Example(0, tuple(context), ((tokens[0],),))
        inputs = model_inputs([example], packed=packed, padding=padding)
        _, states = model(**on_device(inputs, model.device), with_states=True)
        found.append(mass(output(states)[0].float().log_softmax(-1)[list(tokens)]))
    model.train(training)
    return found
