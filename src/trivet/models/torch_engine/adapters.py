"""PEFT adapters: a base model with a change of its weights that is kept apart on disk."""

import warnings
from pathlib import Path
from typing import Any

from trivet.errors import ModelError


def with_adapter(model: Any, folder: Path) -> Any:
    """``model`` with the adapter in ``folder`` merged into its weights, which costs nothing afterwards.

    LoRA and its kin, W' = W + s B A, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685).

    Raises:
        ModelError: PEFT is not installed, or the adapter does not fit the model or cannot be merged.
    """
    try:
        from peft import PeftModel
    except ModuleNotFoundError:
        raise ModelError(
            "an adapter needs the package 'peft', which is not installed",
            where=str(folder),
            hint="pip install 'trivet[train]'",
        ) from None
    try:
        with warnings.catch_warnings():
            # PEFT only warns of weights that are missing, and would run the adapter without them.
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            # It asks transformers in a way that is going out of use, which is no concern of the user's.
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            return PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except Exception as error:  # each kind of adapter fails in its own way
        raise ModelError(
            f"cannot be merged into its base: {' '.join(str(error).split())[:400]}",
            where=str(folder),
            hint="an adapter belongs to one base model: base_model_name_or_path in its adapter_config.json",
        ) from error
