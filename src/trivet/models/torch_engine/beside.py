"""What a program that mixes several models learns of those beside its own."""

from collections.abc import Mapping

import torch

from trivet._validation import did_you_mean
from trivet.errors import UnsupportedError
from trivet.models.engine import Request
from trivet.models.operations import Tokens
from trivet.models.torch_engine.loading import LoadedModel
from trivet.models.torch_engine.rows import transformed


class Beside:
    """The models of one request. See ``ProgramContext`` for what each function gives."""

    def __init__(self, request: Request, prompt: Tokens, models: Mapping[str, LoadedModel]) -> None:
        self._request, self._prompt, self._models = request, prompt, models

    def prompt_of(self, model: str, template: str | None = None) -> Tokens:
        """The request's chat as ``model`` is shown it.

        Raises:
            UnsupportedError: no such model is loaded.
            ModelError: the template refuses the chat.
        """
        loaded, request = self._loaded(model), self._request
        if template is None and (not loaded.has_template or loaded is self._models[""]):
            return self._prompt
        return loaded.render(
            request.chat,
            request.tools,
            continue_final_message=request.continue_final_message,
            tool_choice=request.tool_choice,
            template=template,
        )

    def same_as(self, model: str) -> str:
        """The first model with the same weights; edits of hidden states make the engine's own another one."""
        key = self._loaded(model).key
        return model if key == "" and self._request.hooks.activations else key

    def transform(self, tokens: Tokens, logits: torch.Tensor) -> torch.Tensor:
        """``logits`` [vocabulary] after the request's logits transforms.

        Raises:
            ValueError: a transform gives what is no distribution.
        """
        return transformed(self._request.hooks.logits, tokens, len(self._prompt), logits)

    def _loaded(self, model: str) -> LoadedModel:
        if model not in self._models:
            raise UnsupportedError(
                f"no model {model!r} is loaded beside this one", hint=did_you_mean(model, self._models)
            )
        return self._models[model]
