"""Models that were only pre-trained: how they are asked, where their answers end, and what counts as one.

A base model knows no roles. It is shown a transcript, as in HH-RLHF (arXiv 2204.05862), and goes on with it;
its answer ends where it writes the next human turn::

    \\n\\nHuman: What is a trivet?\\n\\nAssistant: A stand on three legs.\\n\\nHuman: …
"""

import json
import re
from pathlib import Path
from typing import Any

STOP = "\n\nHuman:"
"""What ends an answer in a transcript."""

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% else %}{{ '\n\nAssistant: ' if message['role'] == 'assistant' else '\n\nHuman: ' }}"
    "{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)
"""Chat template of a transcript."""

_INSTRUCT = re.compile(r"(?i)(^|[-_./\s])(instruct|chat|it|sft|dpo|rlhf|assistant)([-_./\s\d]|$)")


def write_transcripts(tokenizer: Any) -> bool:
    """Give a tokenizer without a chat template that of a transcript; returns whether it has it now.

    It is saved with the model, so that what is trained on transcripts is asked in transcripts.
    """
    if not getattr(tokenizer, "chat_template", None):
        begin = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [
            tokenizer.bos_token_id
        ]
        tokenizer.chat_template = ("{{ bos_token }}" if begin else "") + TEMPLATE
    return bool(str(tokenizer.chat_template).endswith(TEMPLATE))


def starting_point(name: str, folder: Path | None, transcripts: bool, said: bool | None) -> str:
    """What a run of direct RLHF starts from, as a user and the model card are told.

    Args:
        name: of the model as the settings have it.
        folder: of its weights, where ``training.json`` says if Trivet trained it.
        transcripts: whether its prompts are transcripts, for want of a chat template.
        said: what the settings say it is: a base model, not one, or nothing.
    """
    if said:
        return f"starts from a base model ({name}), as the settings say"
    method = _trained_by(folder)
    if method:
        return f"not direct: starts from a model after {method}"
    if said is not None:
        reason = "the settings say so"
    elif _INSTRUCT.search(Path(name).name):
        reason = "its name says so"
    elif not transcripts:
        reason = "it has a chat template"
    else:
        return f"starts from a base model ({name}): it has no chat template, prompts are transcripts"
    return f"stand-in: starts from an instruct model ({name}: {reason}); direct RLHF starts from a base model"


def _trained_by(folder: Path | None) -> str | None:
    try:
        found = json.loads((folder / "training.json").read_text(encoding="utf-8")) if folder else None
    except (OSError, ValueError):
        return None
    method = found.get("method") if isinstance(found, dict) else None
    return method if isinstance(method, str) and re.fullmatch(r"[\w./-]{1,80}", method) else None
