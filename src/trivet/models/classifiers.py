"""Sequence classifiers with one output, which are what reward and cost models are.

A decoder with a linear head ``score`` on the last hidden state of the last token that does not pad, in the
form that ``AutoModelForSequenceClassification`` loads; or a PEFT adapter of such a model, with its head.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trivet.errors import ModelError
from trivet.models.names import ModelReference
from trivet.models.torch_engine.adapters import with_adapter

HEAD = "score"
"""Name of the head in every decoder that transformers makes a classifier of."""


def load_classifier(reference: ModelReference, *, dtype: Any, new_head: bool = False) -> tuple[Any, Any]:
    """A classifier with one output, and its tokenizer. An adapter is merged into its base.

    Args:
        reference: a folder, an adapter or a hub id, resolved.
        dtype: of the weights, or ``"auto"``.
        new_head: a model without a head gets one, drawn from PyTorch's global generator; otherwise it is
            refused.

    Raises:
        ModelError: it is no folder of weights or does not load; it has no head, or more than one output.
    """
    folder = reference.path if reference.base is None else reference.base.path
    if folder is None or not folder.is_dir():
        raise ModelError("is not a folder of weights", where=reference.name)
    if reference.base is None:
        model, tokenizer_folder = _from_folder(folder, dtype, new_head), folder
    else:
        assert reference.path is not None
        model = _from_adapter(reference.path, folder, dtype, new_head)
        tokenizer_folder = reference.path if (reference.path / "tokenizer_config.json").is_file() else folder
    tokenizer = _tokenizer(tokenizer_folder)
    config = model.config.get_text_config()
    if config.pad_token_id is None or reference.base is not None:
        config.pad_token_id = padding_of(tokenizer)
    return model, tokenizer


def padding_of(tokenizer: Any) -> int:
    """The token that pads, and at which a classifier therefore never reads its score."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return int(next(token for token in known if token is not None))


def _from_adapter(adapter: Path, base: Path, dtype: Any, new_head: bool) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    if _task(adapter) == "SEQ_CLS":
        if not _holds_head(adapter):
            raise ModelError(
                f"the adapter does not hold the head of its classifier ({HEAD})", where=str(adapter)
            )
        return with_adapter(_from_folder(base, dtype, new_head=True), adapter)
    if not new_head:
        raise ModelError("is an adapter of a language model, not of a classifier", where=str(adapter))
    merged = with_adapter(_loaded(AutoModelForCausalLM, base, dtype), adapter)
    with _quiet():
        config = AutoConfig.from_pretrained(base, num_labels=1, trust_remote_code=False)
        model = AutoModelForSequenceClassification.from_config(config, dtype=merged.dtype)
    setattr(model, model.base_model_prefix, getattr(merged, merged.base_model_prefix))
    return model


def _from_folder(folder: Path, dtype: Any, new_head: bool) -> Any:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    if new_head:
        model, missing = _loaded(
            AutoModelForSequenceClassification, folder, dtype, num_labels=1, output_loading_info=True
        )
        unknown = [name for name in missing["missing_keys"] if not name.startswith(f"{HEAD}.")]
    else:
        try:
            outputs = AutoConfig.from_pretrained(folder, trust_remote_code=False).num_labels
        except Exception as error:  # a damaged file raises whatever its reader raises
            raise _unreadable(folder, error) from error
        if outputs != 1:
            raise ModelError(
                f"has {outputs} outputs; a model of rewards or costs is a sequence classifier with one",
                where=str(folder),
                hint="`trivet train reward_model` and `trivet train cost_model` make one",
            )
        model, missing = _loaded(AutoModelForSequenceClassification, folder, dtype, output_loading_info=True)
        unknown = list(missing["missing_keys"])
    if unknown:
        raise ModelError(f"the weights lack {', '.join(sorted(unknown)[:5])}", where=str(folder))
    return model


def _loaded(kind: Any, folder: Path, dtype: Any, **options: Any) -> Any:
    with _quiet():
        try:
            return kind.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, **options
            )
        except Exception as error:
            raise _unreadable(folder, error) from error


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: Exception) -> ModelError:
    return ModelError(f"cannot be loaded: {' '.join(str(error).split())[:400]}", where=str(folder))


def _task(adapter: Path) -> str | None:
    try:
        found = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(found.get("task_type")) if isinstance(found, dict) else None


def _holds_head(adapter: Path) -> bool:
    from safetensors import safe_open

    names: list[str] = []
    for file in adapter.glob("*.safetensors"):  # whole ones, as resolving the name has seen
        with safe_open(str(file), framework="numpy") as stream:
            names += stream.keys()
    return any(f".{HEAD}." in name for name in names)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report of the head that is new and the output layer that is left out."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
