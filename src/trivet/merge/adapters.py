"""PEFT's LoRA adapters as experts: their task vector is the product of two thin matrices.

The delta of a linear layer is s B A with A [r, inputs], B [outputs, r] and s = α/r (α/√r with
``use_rslora``), "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685). It is never
materialised whole: a block of rows needs the same rows of B and all of A.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trivet.errors import MergeError
from trivet.merge.weights import TensorFiles, Weights, read_header, read_json

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"
_CHANGES_MORE = (
    "use_dora", "bias", "modules_to_save", "lora_bias", "use_qalora", "use_bdlora", "alora_invocation_tokens",
    "trainable_token_indices", "layer_replication", "target_parameters", "arrow_config", "kasa_config",
    "monteclora_config", "velora_config",
)  # fmt: skip
_STARTS_AT_ZERO = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the base as it is."""
_KEY = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+?)\.(?P<part>lora_A|lora_B)(?:\.[^.]+)?\.weight$")


@dataclass(frozen=True)
class _Factors:
    """``up`` [outputs, r], scaled, and ``down`` [r, inputs], both float32."""

    up: torch.Tensor
    down: torch.Tensor


class Adapter:
    """A LoRA adapter in memory (it is small), on the model ``base``.

    ``trained_on`` names the model that it says it belongs to; empty where it says nothing.

    Raises:
        MergeError: it is of a kind that is not read here, or does not fit the base; names the key.
    """

    def __init__(self, folder: Path, base: Weights) -> None:
        self.folder = folder
        self.base = base
        config = read_json(folder / CONFIG)
        _refuse_others(config, folder)
        self.trained_on = str(config.get("base_model_name_or_path") or "")
        self._factors = self._read(config)
        for module, factors in self._factors.items():
            self._fits(module, factors)

    def _read(self, config: dict[str, Any]) -> dict[str, _Factors]:
        file = self.folder / FILE
        stored = TensorFiles(read_header(file))
        parts: dict[str, dict[str, torch.Tensor]] = {}
        try:
            for key in stored.entries:
                match = _KEY.match(key)
                if match is None:
                    raise MergeError(f"holds {key!r}, which is not a LoRA factor", where=str(file))
                parts.setdefault(match["module"], {})[match["part"]] = stored.read(key)
        finally:
            stored.close()
        found = {}
        for module, pair in parts.items():
            if set(pair) != {"lora_A", "lora_B"} or pair["lora_A"].shape[0] != pair["lora_B"].shape[1]:
                raise MergeError(f"the factors of {module} do not fit together", where=str(file))
            up, down = pair["lora_B"], pair["lora_A"]
            if config.get("fan_in_fan_out"):  # the base stores this weight as [inputs, outputs]
                up, down = down.T.contiguous(), up.T.contiguous()
            found[f"{module}.weight"] = _Factors(up * _scale(config, module, pair["lora_A"].shape[0]), down)
        return found

    def _fits(self, name: str, factors: _Factors) -> None:
        entry = self.base.entries.get(name)
        wanted = (factors.up.shape[0], factors.down.shape[1])
        if entry is None or entry.shape != wanted:
            has = "has no such tensor" if entry is None else f"has the shape {list(entry.shape)}"
            raise MergeError(
                f"changes {name} [{wanted[0]}, {wanted[1]}]; the base {has}",
                where=str(self.folder),
                hint="an adapter belongs to one base model; name that one",
            )

    def changes(self, name: str) -> bool:
        """Whether it changes a tensor of the base."""
        return name in self._factors

    def factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(B, A) with delta = B A; ``None`` where it changes nothing."""
        found = self._factors.get(name)
        return None if found is None else (found.up, found.down)

    def delta(self, name: str, row: int, rows: int) -> torch.Tensor:
        """Rows ``row`` … of the delta, float32 [rows, columns]."""
        found = self._factors[name]
        # In double precision, since a product in float32 depends on how many rows are asked for at once.
        return (found.up[row : row + rows].double() @ found.down.double()).float()


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    alpha = _pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", rank))
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pattern(patterns: Any, module: str, default: Any) -> Any:
    """PEFT's per-module value: the first pattern that is the end of the module's name, else the default."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _refuse_others(config: dict[str, Any], folder: Path) -> None:
    where = str(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise MergeError(f"is a {config.get('peft_type')} adapter; only LoRA is read", where=where)
    for key in _CHANGES_MORE:
        if config.get(key) not in (None, False, "none", [], {}):
            raise MergeError(
                f"{key}: {config[key]!r} changes more than LoRA's two factors",
                where=where,
                hint="merge the adapter into its base with PEFT's merge_and_unload() and name that folder",
            )
    start = config.get("init_lora_weights")
    if start not in _STARTS_AT_ZERO:
        raise MergeError(
            f"init_lora_weights: {start!r} moved part of the base into the factors: they are no task vector",
            where=where,
            hint="save it with PEFT's path_initial_model_for_weight_conversion, or merge it into its base "
            "with merge_and_unload() and name that folder",
        )
