"""Rewards of the objectives that are not trained now, for both answers of each pair: computed once.

The implicit reward of a model π_j that DPO made is r_j(x, y) = β_j · (log π_j(y|x) − log π_ref(y|x)) ("Beyond
One-Preference-Fits-All Alignment", arXiv 2310.03708, section 3). The log-probabilities under π_j and the
scores of a judge are kept on disk by content; those of a function of the user's own, which may depend on
anything, are kept for the run.
"""

import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from trivet._files import canonical_json, sha256_text, write_json
from trivet.errors import ConfigError, ModelError
from trivet.models.cache import cache_folder
from trivet.models.names import ModelReference, resolve_model
from trivet.models.operations import Chat
from trivet.train.batches import Example, owners
from trivet.train.loading import Trainee
from trivet.train.margin_settings import Margin
from trivet.train.preference_loss import answer_sums
from trivet.train.preference_method import Prepared, logprobs_of
from trivet.train.preference_trainer import PreferenceExample
from trivet.train.preferences import Pair
from trivet.train.reference import reference_logprobs
from trivet.train.running import TrainingContext
from trivet.train.scoring import causal_model
from trivet.train.settings import anchored

Rewards = list[tuple[float, float] | None]
"""Of the chosen and the rejected answer of each pair; ``None`` where one of the two has no score."""

_CHUNK = 128  # chats that are scored, and kept, at a time
_ADAPTER = "margin"
_BASE_STAYS = (None, True, False, "gaussian")
_MORE_THAN_LORA = ("modules_to_save", "trainable_token_indices", "layer_replication", "target_parameters")


def margin_rewards(
    name: str,
    margin: Margin,
    context: TrainingContext,
    prepared: Prepared,
    *,
    seed: int,
    max_length: int | None,
) -> tuple[Rewards, Rewards]:
    """The rewards of the pairs that train and of those that are held out.

    Raises:
        ConfigError: a function returns something else than numbers.
        ModelError, JudgeError: what the margin names cannot be opened or used.
    """
    examples = [*prepared.trained, *prepared.held_out]
    if margin.model is not None:
        found = _implicit(name, margin, context, prepared, examples, seed)
    elif margin.length is not None:
        found = [
            (-margin.scale * len(chosen), -margin.scale * len(rejected))
            for chosen, rejected in (pair.example.answers for pair in examples)
        ]
    else:
        rows = [prepared.trained_pairs[one.example.row] for one in prepared.trained]
        rows += [prepared.held_out_pairs[one.example.row] for one in prepared.held_out]
        chats = [
            chat
            for pair, one in zip(rows, examples, strict=True)
            for chat in _chats(pair, one.example, prepared.trainee.tokenizer, max_length)
        ]
        found = _explicit(name, margin, context, chats)
    return found[: len(prepared.trained)], found[len(prepared.trained) :]


def implicit_rewards(
    logprobs: torch.Tensor, reference: torch.Tensor, owner: torch.Tensor, beta: float
) -> torch.Tensor:
    """β (log π(y|x) − log π_ref(y|x)) of each answer, float64 [answers].

    Args:
        logprobs, reference: of each answer token [tokens].
        owner: number of the answer that each token belongs to [tokens].
    """
    return beta * answer_sums((logprobs - reference).double(), owner, None)


def _implicit(
    name: str,
    margin: Margin,
    context: TrainingContext,
    prepared: Prepared,
    pairs: Sequence[PreferenceExample],
    seed: int,
) -> Rewards:
    assert margin.model is not None
    trainee, examples = prepared.trainee, [pair.example for pair in pairs]
    reference = resolve_model(anchored(margin.model, context.base))
    beta = margin.settled_beta(context.base)
    if _loads_beside(reference, trainee):
        assert reference.path is not None
        with PartialState().main_process_first(), _active(trainee.model, reference.path):
            known = reference_logprobs(
                trainee.model,
                examples,
                identity=reference.identity,
                packed=prepared.packed,
                padding=trainee.padding,
            )
    else:
        known = logprobs_of(margin.model, f"margins: {name}", context, trainee, examples, seed)
    trained_from = margin.record(context.base).get("inputs", {}).get("model")
    if trained_from not in (None, trainee.identity):
        context.say(f"margin {name}: was trained from another model than the one that is trained here")
    rewards = implicit_rewards(
        torch.cat(known), torch.cat([pair.reference for pair in pairs]), owners(examples), beta
    )
    return [(chosen, rejected) for chosen, rejected in rewards.view(-1, 2).tolist()]


def _loads_beside(reference: ModelReference, trainee: Trainee) -> bool:
    """Whether it is a plain LoRA adapter on the model that is trained, which can then lend its weights."""
    from peft import PeftModel
    from safetensors import safe_open

    if reference.base is None or reference.base.identity != trainee.identity or reference.path is None:
        return False
    if not isinstance(trainee.model, PeftModel):
        return False
    file = reference.path / "adapter_model.safetensors"
    settings = json.loads((reference.path / "adapter_config.json").read_text(encoding="utf-8"))
    trained = trainee.model.peft_config[trainee.model.active_adapter]
    starts = (settings.get("init_lora_weights", True), trained.init_lora_weights)
    if any(start not in _BASE_STAYS for start in starts):  # others move a part of the base into the adapter
        return False
    plain = settings.get("peft_type") == "LORA" and settings.get("bias", "none") == "none"
    if not plain or any(settings.get(key) for key in _MORE_THAN_LORA) or not file.is_file():
        return False
    inner = causal_model(trainee.model)
    output = inner.get_output_embeddings()
    heads = {name for name, module in inner.named_modules() if module is output}
    with safe_open(file, "pt") as stored:  # answers are scored with the output layer as it is
        return not any(f".{head}." in key for key in stored.keys() for head in heads)  # noqa: SIM118


@contextmanager
def _active(model: Any, folder: Path) -> Iterator[None]:
    """The adapter in ``folder`` in place of the one that is trained, frozen; undone at the end."""
    trained = model.active_adapter
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            model.load_adapter(str(folder), adapter_name=_ADAPTER, is_trainable=False)
        model.set_adapter(_ADAPTER)
    except Exception as error:  # an adapter that does not fit fails in its own way
        raise ModelError(
            f"the adapter cannot be loaded: {' '.join(str(error).split())[:400]}", where=str(folder)
        ) from error
    try:
        yield
    finally:
        model.set_adapter(trained)
        model.delete_adapter(_ADAPTER)


def _chats(pair: Pair, example: Example, tokenizer: Any, max_length: int | None) -> list[Chat]:
    """The prompt with each of the two answers, as far as the policy scores them."""
    prompt = pair["prompt"]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    chats: list[Chat] = []
    for side, tokens in zip(("chosen", "rejected"), example.answers, strict=True):
        answer = pair[side]
        text = answer if isinstance(answer, str) else answer[-1]["content"]
        if max_length is not None and len(example.prompt) + len(tokens) == max_length:  # it may be cut
            text = tokenizer.decode(tokens, skip_special_tokens=True)
        chats.append([*messages, {"role": "assistant", "content": text}])
    return chats


def _explicit(name: str, margin: Margin, context: TrainingContext, chats: Sequence[Chat]) -> Rewards:
    reasons: Counter[str] = Counter()
    if margin.judge is not None:
        judge = margin.opened_judge(context.base)

        def score(some: Sequence[Chat]) -> list[tuple[float | None, str]]:
            return [
                (verdict.value, verdict.reason or "")
                if verdict.value is None or math.isfinite(verdict.value)
                else (None, "the score is not finite")
                for verdict in judge.score(some)
            ]

        folder, identity = cache_folder() / "margins", judge.identity
    else:
        function = margin.opened_function(context.base)

        def score(some: Sequence[Chat]) -> list[tuple[float | None, str]]:
            values = _numbers(function(some), len(some), f"margin {name}: {margin.function}")
            return [(value, "the function gives none") for value in values]

        folder, identity = context.work / "margins", str(margin.function)
    scores: list[float | None] = []
    with PartialState().main_process_first():
        for start in range(0, len(chats), _CHUNK):
            for value, reason in _kept(folder, identity, chats[start : start + _CHUNK], score):
                scores.append(None if value is None else margin.scale * value)
                if value is None:
                    reasons[reason] += 1
    for reason, count in reasons.items():
        note = f"margin {name}: {count} of {len(chats)} answers have no score: {reason}"
        context.facts.setdefault("data", []).append(note)
        context.say(note)
    return [
        None if chosen is None or rejected is None else (chosen, rejected)
        for chosen, rejected in zip(scores[::2], scores[1::2], strict=True)
    ]


def _kept(
    folder: Path,
    identity: str,
    chats: Sequence[Chat],
    score: Callable[[Sequence[Chat]], list[tuple[float | None, str]]],
) -> list[tuple[float | None, str]]:
    """The scores from the disk where they were computed before."""
    path = folder / f"{sha256_text(canonical_json([identity, [list(chat) for chat in chats]]))}.json"
    try:
        found = [(value, str(reason)) for value, reason in json.loads(path.read_text(encoding="utf-8"))]
        if len(found) == len(chats) and all(isinstance(v, float | int | None) for v, _ in found):
            return found
    except (OSError, ValueError, TypeError):
        pass  # not there yet, or damaged: it is made again
    found = score(chats)
    write_json(path, found, indent=None)
    return found


def _numbers(values: Any, count: int, where: str) -> list[float | None]:
    try:
        found = [None if value is None else float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"returns something else than numbers: {error}", where=where) from error
    if len(found) != count:
        raise ConfigError(f"returns {len(found)} numbers for {count} chats", where=where)
    if any(value is not None and not math.isfinite(value) for value in found):
        raise ConfigError("returns a number that is not finite", where=where, hint="return None instead")
    return found
