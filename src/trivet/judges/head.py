"""A linear head on a model's hidden states: ``score = w · mean hidden state of the answer + b``.

Fitted on preference pairs by ``trivet judges fit head`` (see ``head_fit``). The difference of two scores is
the log-odds that people prefer the first answer to the second; 0 is the mean of the answers of the fit.
Cost: one forward pass over the chat, shared with whatever else the engine runs.
"""

import functools
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trivet._files import sha256_text
from trivet._validation import Config as BaseConfig
from trivet.errors import JudgeError
from trivet.judges.artifact import (
    Header,
    artifact_identity,
    read_artifact,
    read_training_prompts,
    write_artifact,
)
from trivet.judges.base import Verdict, unscored
from trivet.judges.calibration import estimate_json
from trivet.judges.head_fit import FittedHead
from trivet.judges.hidden_states import answer_states
from trivet.models.engine import Engine
from trivet.models.engines import get_engine
from trivet.models.names import resolve_model
from trivet.models.operations import Chat

KIND, FORMAT = "head", 1
VERSION = 1
"""Raised when equal weights give other scores than before."""


class Config(BaseConfig):
    """``path``: a head that ``trivet judges fit head`` wrote. ``model``: the model whose hidden states it
    reads, by default the one that it was fitted on; another of equal width is used with a warning."""

    path: Path
    model: str | None = None
    device: str = "auto"


def build(config: Config) -> "HeadJudge":
    """The judge; the model is loaded at the first score.

    Raises:
        JudgeError: the file is missing, damaged, or no head.
    """
    return HeadJudge(config.path, model=config.model, device=config.device)


class HeadWarning(UserWarning):
    """A head reads the hidden states of weights that it was not fitted on."""


class HeadJudge:
    """Scores answers by a linear head. ``value`` is in log-odds; there are no labels."""

    def __init__(self, path: Path, *, model: str | None = None, device: str = "auto") -> None:
        self.path = Path(path)
        self.name = self.path.stem
        header, tensors = read_artifact(self.path, KIND, FORMAT)
        try:
            self.objective = str(header.fields["objective"])
            self.model = model or str(header.fields["model"])
            self.layer = int(header.fields["layer"])
            self.max_tokens = int(header.fields["max_tokens"])
            self._fitted_on = str(header.fields["weights_identity"])
            self._weights = tensors["weights"].astype(np.float64)
            self._bias = float(tensors["bias"][0])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise JudgeError(f"a field of the head is missing or wrong: {error}", where=str(path)) from None
        if self._weights.ndim != 1:
            raise JudgeError("the tensor 'weights' must have one dimension", where=str(path))
        self._quality: dict[str, Any] = header.fields.get("quality", {})
        self._device = device
        self._lock = threading.Lock()
        self._compared = False

    @functools.cached_property
    def identity(self) -> str:
        """Digest of the head, the model it reads, and the version of the code."""
        parts = artifact_identity(self.path, VERSION), resolve_model(self.model).identity
        return sha256_text(":".join(parts))

    @property
    def quality(self) -> dict[str, Any]:
        """Accuracy on held-out preference pairs."""
        return dict(self._quality)

    @functools.cached_property
    def training_prompts(self) -> frozenset[str]:
        """Digests of the prompts of the pairs it was fitted on."""
        return read_training_prompts(self.path)

    def score(self, chats: Sequence[Chat]) -> list[Verdict]:
        """Score the last assistant message of each chat; system messages are not read.

        Raises:
            ModelError, EngineError: the model cannot be loaded. JudgeError: its width is not the head's.
        """
        states = answer_states(self._loaded(), chats, layer=self.layer, max_tokens=self.max_tokens)
        verdicts = []
        for state in states:
            if isinstance(state, str):
                verdicts.append(unscored(state))
                continue
            if state.shape != self._weights.shape:
                raise JudgeError(
                    f"the head has {len(self._weights)} weights, the hidden states of {self.model!r} have "
                    f"{len(state)}",
                    where=str(self.path),
                    hint="fit a head for this model with `trivet judges fit head --model`",
                )
            verdicts.append(_verdict(float(state @ self._weights + self._bias)))
        return verdicts

    def _loaded(self) -> Engine:
        """The shared engine; asked for each time, since shared engines may have been closed meanwhile."""
        with self._lock:
            engine = get_engine(self.model, device=self._device)
            if not self._compared and resolve_model(self.model).identity != self._fitted_on:
                warnings.warn(
                    f"the head {self.name!r} was fitted on other weights than those of {self.model!r} "
                    "here; its measured accuracy does not hold for them",
                    HeadWarning,
                    stacklevel=4,
                )
            self._compared = True
            return engine


def _verdict(value: float) -> Verdict:
    return Verdict(value) if np.isfinite(value) else unscored("the hidden states hold NaN or infinity")


def write_head(path: Path, fitted: FittedHead, *, population: str, card: str) -> None:
    """Write a fitted head with its card.

    Raises:
        StoreError: the files cannot be written.
    """
    accuracy = {} if fitted.held_out is None else {"accuracy": estimate_json(fitted.held_out)}
    quality = {"population": population, "n": fitted.held_out.n, **accuracy} if fitted.held_out else {}
    fields = {
        "objective": fitted.config.objective,
        "model": fitted.config.model,
        "layer": fitted.config.layer,
        "max_tokens": fitted.config.max_tokens,
        "weights_identity": fitted.weights_identity,
        "weights_source": fitted.weights_source,
        "quality": quality,
    }
    tensors = {"weights": fitted.weights, "bias": np.array([fitted.bias], dtype=np.float32)}
    write_artifact(
        path, Header(KIND, FORMAT, fields), tensors, training_prompts=fitted.training_prompts, card=card
    )
