"""A checkpoint in memory: weights, tokenizer, end-of-sequence tokens, context length."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError

from trivet.errors import ModelError
from trivet.models.operations import Chat, Tokens
from trivet.models.torch_engine.adapters import with_adapter
from trivet.models.torch_engine.packed_linear import pack_linear_layers

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class LoadedModel:
    """A model of transformers with its tokenizer. ``context_length`` is in tokens, ``eos`` token ids.

    ``key`` names it among the models of an engine, whose own is ``""``; ``shared`` are the tokens that it has
    in common with that one, see ``trivet.models.torch_engine.alignment``.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    context_length: int
    eos: frozenset[int]
    where: str
    key: str = ""
    shared: torch.Tensor | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def rows(self) -> int:
        """Size of the vocabulary: rows of the embedding, which may be more than the tokenizer has tokens."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def has_template(self) -> bool:
        """Whether it has a chat template; models that were only pre-trained often have none."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def takes_tools(self) -> bool:
        """Whether the chat template shows tools to the model; most that do not leave them out silently."""
        return "tools" in str(getattr(self.tokenizer, "chat_template", None) or "")

    def encode(self, text: str) -> Tokens:
        """Token ids of plain text, without special tokens at its ends."""
        with self._lock:
            # Not verbose: what is too long for the context is refused with a message of its own.
            return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        with self._lock:
            return str(
                self.tokenizer.decode(
                    list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
            )

    def render(
        self,
        chat: Chat,
        tools: Sequence[dict[str, Any]] = (),
        *,
        continue_final_message: bool = False,
        tool_choice: str | dict[str, Any] | None = None,
        template: str | None = None,
    ) -> Tokens:
        """Token ids of the chat under the chat template, with the generation prompt.

        ``continue_final_message`` leaves the last message open instead. ``template``: a Jinja template used
        in place of the model's own.

        Raises:
            ModelError: the model has no chat template, or the template refuses the chat.
        """
        if template is None and not self.has_template:
            raise ModelError(
                "the model has no chat template",
                where=self.where,
                hint="use an instruction-tuned model, or add chat_template.jinja to its folder",
            )
        if isinstance(tool_choice, dict):  # one function is asked for by name: the template shows only it
            wanted = tool_choice.get("function", {}).get("name")
            tools = [tool for tool in tools if tool.get("function", {}).get("name") == wanted]
        try:
            with self._lock:
                return tuple(
                    self.tokenizer.apply_chat_template(
                        [_text_only(message) for message in chat],
                        tools=list(tools) if tools and tool_choice != "none" else None,
                        add_generation_prompt=not continue_final_message,
                        continue_final_message=continue_final_message,
                        return_dict=False,
                        chat_template=template,
                        tokenizer_kwargs={"verbose": False},
                    )
                )
        except (TemplateError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"the chat template refuses the chat: {error}", where=self.where) from error


def _text_only(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        return {**message, "content": "".join(part.get("text", "") for part in content)}
    return message


def load(
    path: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    device_map: Any = None,
    where: str = "",
    adapter: Path | None = None,
) -> LoadedModel:
    """Load a Hugging Face folder, and merge a PEFT ``adapter`` into its weights.

    ``dtype`` "auto" is float32 on a CPU, where bfloat16 is several times slower on most processors, and the
    checkpoint's own type on a GPU.

    Raises:
        ModelError: the folder does not hold what its configuration says, the adapter does not fit, or the
            device is not there.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    chosen = _device(device)
    wanted: Any = DTYPES.get(dtype, "auto" if chosen.type != "cpu" else torch.float32)
    if dtype != "auto" and dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}", hint=f"one of auto, {', '.join(DTYPES)}")
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        model, loaded = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=wanted,
            device_map=device_map,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except Exception as error:  # a damaged file raises whatever its reader raises
        raise ModelError(f"cannot be loaded: {' '.join(str(error).split())[:400]}", where=where) from error
    missing = sorted(loaded["missing_keys"]) + sorted(str(key) for key in loaded["mismatched_keys"])
    if missing:
        raise ModelError(
            f"the weights lack {len(missing)} tensors, the first is {missing[0]}",
            where=where,
            hint="the checkpoint is not whole or does not fit its config.json",
        )
    if adapter is not None:
        model = with_adapter(model, adapter)
    if device_map is None:
        model.to(chosen)
    model.eval().requires_grad_(False)
    pack_linear_layers(model)
    return in_memory(model, tokenizer, eos=_eos(model, tokenizer), where=where or str(path))


def in_memory(model: Any, tokenizer: Any, *, eos: frozenset[int], where: str) -> LoadedModel:
    """A model that is in memory already, as it is. ``eos``: the tokens that end an answer."""
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        device=model.device,
        dtype=model.dtype,
        context_length=_context_length(model, tokenizer),
        eos=eos,
        where=where,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"the device {name!r} is not there: {str(error).splitlines()[0]}", hint="use device: auto"
        ) from error
    return device


def _context_length(model: Any, tokenizer: Any) -> int:
    config = model.config.get_text_config()
    length = int(getattr(config, "max_position_embeddings", None) or 2**20)
    return min(length, int(getattr(tokenizer, "model_max_length", None) or length))


def _eos(model: Any, tokenizer: Any) -> frozenset[int]:
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    tokens = set(named if isinstance(named, list) else [named])
    return frozenset(int(token) for token in tokens | {tokenizer.eos_token_id} if token is not None)
