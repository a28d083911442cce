"""One request's models under emulated fine-tuning: which of them are run, on what, and what is noted."""

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import torch

from trivet.decode._mixing import coefficients, combined, conservative
from trivet.models.operations import Next, ProgramContext, Several, Tokens
from trivet.models.torch_engine.sampling import Drawn

LARGE, BASE = "", "base"
_LONGEST_TRACE = 64
"""Tokens whose numbers a trace holds."""


class Emulation:
    """The mixture of one request.

    Args:
        shares: λ of each tuned model.
        beta: strength of all of them.
        top_p: mass of the tokens that are up-scaled, 1 for all.
        templates: chat templates in place of the models' own.

    ``needed`` are the models that the mixture reads, ``drafting`` those that the small models' own mixture
    reads, ``checking`` the needed ones that do not draft. A model that equals an earlier one (same weights,
    same prompt) goes under the earlier one's name.
    """

    def __init__(
        self,
        context: ProgramContext,
        *,
        shares: Mapping[str, float],
        beta: float,
        top_p: float = 1.0,
        templates: Mapping[str, str] | None = None,
    ) -> None:
        self.prompts: dict[str, Tokens] = {}
        self.names: dict[str, str] = {}
        for model in (LARGE, BASE, *shares):
            template = (templates or {}).get(model)
            prompt = context.prompt if model == LARGE else context.prompt_of(model, template)
            self.names[model] = self._same(context, model, prompt)
        large, base = self.names[LARGE], self.names[BASE]
        weights: dict[str, float] = {}
        for model, share in shares.items():
            name = self.names[model]
            weights[name] = weights.get(name, 0.0) + share
        self._target, self._small = coefficients(large, base, weights, beta)
        self._scale = {model: beta * share for model, share in shares.items() if beta * share}
        self._top_p = top_p if large != base else 1.0
        needed = dict.fromkeys(self._target)
        if self._top_p < 1:
            needed |= dict.fromkeys([large, base, *self._small])
        self.needed = tuple(needed)
        self.drafting = tuple(self._small)
        self.checking = tuple(model for model in self.needed if model not in self._small)

    def _same(self, context: ProgramContext, model: str, prompt: Tokens) -> str:
        for name, known in self.prompts.items():
            if known == prompt and context.same_as(name) == context.same_as(model):
                return name
        self.prompts[model] = prompt
        return model

    @property
    def speculates(self) -> bool:
        """Whether there is a model to save passes of: one that checks and does not draft."""
        return bool(self.checking)

    def read(
        self, models: Sequence[str], tokens: Sequence[int], last: int | None = None
    ) -> Generator[Several, Any, dict[str, torch.Tensor]]:
        """Each model's log-probabilities after its prompt and ``tokens``, or after the ``last`` of them."""
        asked = [
            Next((*self.prompts[model], *tokens), (model,), last=last, transformed=False) for model in models
        ]
        found = yield Several(tuple(asked))
        return {model: torch.from_numpy(array) for model, (array,) in zip(models, found, strict=True)}

    def target(self, logprobs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Log-probabilities of the mixture, float32 [vocabulary], from those of the ``needed`` models."""
        if self._top_p < 1:
            large, base = logprobs[self.names[LARGE]], logprobs[self.names[BASE]]
            return conservative(self.small(logprobs), large, base, self._top_p)
        return _combined(self._target, logprobs)

    def small(self, logprobs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Log-probabilities of the small models' mixture, from those of the ``drafting`` models."""
        return _combined(self._small, logprobs)

    def shift(self, logprobs: Mapping[str, torch.Tensor], token: int) -> dict[str, float]:
        """β λ (log π_i − log π_base) of ``token`` for each behaviour whose models were read, in nats."""
        base = logprobs.get(self.names[BASE])
        tuned = {model: logprobs.get(self.names[model]) for model in self._scale}
        return {
            model.removeprefix("tuned."): self._scale[model] * float(values[token] - base[token])
            for model, values in tuned.items()
            if base is not None and values is not None
        }


def _combined(mixture: Mapping[str, float], logprobs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return combined([logprobs[model] for model in mixture], list(mixture.values()))


class Notes:
    """What the trace of one answer says."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        weights: Mapping[str, float],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        self._decode = decode
        self._settings = {**settings, "weights": dict(weights)}
        self._passes: Counter[str] = Counter()
        self._shifts: list[float] = []
        self._steps: list[dict[str, Any]] = []
        self.drafted = self.proposed = self.accepted = 0

    def passed(self, models: Sequence[str], count: int = 1) -> None:
        """``count`` forward passes of each model."""
        self._passes.update(dict.fromkeys(models, count))

    def token(
        self,
        emulation: Emulation,
        logprobs: Mapping[str, torch.Tensor],
        drawn: Drawn,
        *,
        drafted: bool = False,
    ) -> None:
        """A token was drawn, of which the models gave ``logprobs``."""
        shift = emulation.shift(logprobs, drawn.token)
        if shift:
            self._shifts.append(abs(sum(shift.values())))
        if len(self._steps) < _LONGEST_TRACE:
            large = logprobs.get(LARGE)
            step: dict[str, Any] = {"text": self._decode([drawn.token]), "logprob": _finite(drawn.logprob)}
            if large is not None:
                step["large"] = _finite(float(large[drawn.token]))
            step |= {"shift": {name: _finite(value) for name, value in shift.items()}, "drafted": drafted}
            self._steps.append(step)

    def summary(self, emulation: Emulation, tokens: int) -> dict[str, Any]:
        """Plain JSON: settings, passes of each model, acceptance, mean |shift| in nats, the first tokens."""
        note: dict[str, Any] = {"method": "eft", **self._settings, "tokens": tokens}
        note["passes"] = {model or "model": count for model, count in self._passes.items()}
        note["same"] = {model: name or "model" for model, name in emulation.names.items() if model != name}
        if self._passes[LARGE]:
            note["tokens_per_large_pass"] = tokens / self._passes[LARGE]
        note["mean_shift"] = _finite(sum(self._shifts) / len(self._shifts)) if self._shifts else None
        if self.proposed:
            # A draft after one that was corrected is never looked at: proposed counts those that were.
            note |= {"drafted": self.drafted, "proposed": self.proposed, "accepted": self.accepted}
            note["acceptance_rate"] = self.accepted / self.proposed
        return note | {"steps": self._steps}


def _finite(value: float) -> float | None:
    return round(value, 4) if abs(value) < float("inf") else None
