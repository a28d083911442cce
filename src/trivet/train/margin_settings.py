"""Settings of a margin: the reward of an objective that is not trained now."""

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from trivet import _validation
from trivet._files import canonical_json, sha256_file, sha256_text
from trivet.errors import ConfigError
from trivet.judges.base import Judge
from trivet.judges.resolve import resolve
from trivet.models.names import made_folder, resolve_model
from trivet.models.operations import Chat
from trivet.train.settings import anchored

RewardFunction = Callable[[Sequence[Chat]], Sequence[float | None]]

# β of a run whose settings do not give it is TRL's default.
_DPO_METHODS, _DPO_BETA = ("train/dpo", "train/ld_dpo"), 0.1


class Margin(_validation.Config):
    """Where a reward comes from: one of ``model``, ``length``, ``judge``, ``function``.

    - ``model``: an adapter or a model that was trained by DPO on pairs of the objective; its implicit reward
      is beta · (log π_j(y|x) − log π_ref(y|x)).
    - ``length: tokens``: minus the number of tokens of the answer, as the policy scores them.
    - ``judge``: a judge's score, by name, file or settings.
    - ``function``: ``module:function``, called with a list of chats that end with an answer; it returns a
      number for each, or ``None`` for one that it cannot score. The module lies beside the settings or is
      installed.
    """

    model: str | None = Field(None, description="trained by DPO on the objective")
    beta: float | None = Field(
        None, gt=0, description="weight of the log-ratios in that run; by default from its training.json"
    )
    length: Literal["tokens"] | None = Field(None, description="`tokens`: minus the tokens of the answer")
    judge: str | dict[str, Any] | None = Field(None, description="name, file or settings of a judge")
    function: str | None = Field(
        None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="module:function"
    )
    scale: float = Field(1.0, gt=0, description="what a reward other than that of a model is multiplied by")

    @model_validator(mode="after")
    def _one(self) -> "Margin":
        given = [name for name in ("model", "length", "judge", "function") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("a margin has one of model, length, judge and function")
        if self.beta is not None and self.model is None:
            raise ValueError("beta: is that of a model; another reward has a scale")
        if self.scale != 1 and self.model is not None:
            raise ValueError("scale: a model's reward has its beta")
        return self

    def identity(self, base: Path) -> str:
        """Digest of all that determines the reward.

        Raises:
            ConfigError, ModelError, JudgeError: what it names is not there.
        """
        if self.model is not None:
            source = [resolve_model(anchored(self.model, base)).identity, self.settled_beta(base)]
        elif self.judge is not None:
            source = [self.opened_judge(base).identity, self.scale]
        elif self.function is not None:
            file = getattr(sys.modules.get(self.opened_function(base).__module__), "__file__", None)
            source = [self.function, sha256_file(Path(file)) if file else "", self.scale]
        else:
            source = [self.length, self.scale]
        return sha256_text(canonical_json(source))

    def settled_beta(self, base: Path) -> float:
        """β of the run that made ``model``.

        Raises:
            ConfigError: it is not given, and the folder does not tell it.
        """
        if self.beta is not None:
            return self.beta
        record = self.record(base)
        if record.get("method") not in _DPO_METHODS:
            raise ConfigError(
                "its beta is not known: there is no record of a DPO run",
                where=f"margin {self.model}",
                hint="give beta, the weight of the log-ratios in the run that made it",
            )
        return float(record.get("config", {}).get("trainer", {}).get("beta", _DPO_BETA))

    def record(self, base: Path) -> dict[str, Any]:
        """The record of the run that made ``model``; empty where there is none."""
        folder = made_folder(str(self.model)) or base / str(self.model)
        try:
            record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def opened_judge(self, base: Path) -> Judge:
        """The judge; see ``trivet.judges.resolve``."""
        assert self.judge is not None
        return resolve(self.judge, base=base)

    def opened_function(self, base: Path) -> RewardFunction:
        """The function, from an installed module or one in the folder ``base``.

        Raises:
            ConfigError: there is no such module or function.
        """
        assert self.function is not None
        module, _, name = self.function.partition(":")
        where = f"margin function {self.function}"
        beside = str(base.absolute())
        added = beside not in sys.path
        if added:  # last, so that nothing there takes the place of what is installed
            sys.path.append(beside)
        try:
            found = getattr(importlib.import_module(module), name, None)
        except Exception as error:  # the module is the user's own and fails in its own way
            raise ConfigError(f"cannot be imported: {error}", where=where) from error
        finally:
            if added:
                sys.path.remove(beside)
        if not callable(found):
            raise ConfigError(f"the module has no function {name!r}", where=where)
        return found  # type: ignore[no-any-return]
