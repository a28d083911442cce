"""Train the three experts that the merged system of the quickstart is made from.

Each expert is a LoRA adapter of rank 4 on the attention of SmolLM2-135M-Instruct, trained on preference pairs
with direct preference optimisation (DPO, arXiv 2305.18290):

- ``harmless``: pairs of HH-RLHF, the answer that a person found less harmful;
- ``honest``: TruthfulQA, the best answer against a wrong one;
- ``helpful``: the seed tasks of Self-Instruct, a person's answer against the model's own, as SPIN does (arXiv
  2401.01335); the model's is cut to about the person's length, so that length tells little.

It needs ``pip install 'trivet[train]'`` and a folder with the data sets as their publishers name the files::

    hh-single-turn/harmless_{train_gt,train_w2s,test}.jsonl     github.com/RUCBM/weak-to-strong-deception
    truthfulqa/questions.jsonl (or TruthfulQA.csv)              github.com/sylinrl/TruthfulQA
    self-instruct-seeds/seed_tasks.jsonl                        github.com/yizhongw/self-instruct

    python examples/merge/make_experts.py --data "$TRIVET_DATA"

An expert takes about ten minutes on one core. The pairs that judge it share no prompt, and no near-duplicate
of one, with those that train it; no prompt of a suite that Trivet ships is in either.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import DPOConfig, DPOTrainer

from trivet.data.near_duplicates import rouge_l
from trivet.data.prompts import normalise_prompt
from trivet.data.public import load_public
from trivet.data.reading import read_rows, text_field
from trivet.data.suites import names, suite_rows
from trivet.models import embedded
from trivet.statistics.interval import Interval
from trivet.statistics.proportions import adjusted_wald_paired, wilson

HELD_OUT = 150
WRITTEN = 32  # held-out prompts that are also answered, to see whether answers stay whole
BATCH = 4
BETA = 0.1
RANK, ALPHA = 4, 8
# The attention only: with the feed-forward layers too, an adapter would be over 1 MB even in 16 bits.
TARGETS = ["k_proj", "o_proj", "q_proj", "v_proj"]
LIMIT_BYTES = 1_000_000
NEAR = 0.7  # ROUGE-L F from which two prompts count as one, as for the suites that ship

Pair = dict[str, list[dict[str, str]]]


@dataclass(frozen=True)
class Pairs:
    """What one expert learns from and is judged by. ``left_out`` counts, by reason, what is in neither."""

    train: list[Pair]
    held_out: list[Pair]
    title: str
    licence: str
    source: str
    digests: dict[str, str]
    left_out: dict[str, int]


@dataclass(frozen=True)
class Recipe:
    """How one expert is made. ``tokens``: longest conversation, prompt and answer together; longer ones are
    left out, since an answer that is cut says something else.
    """

    pairs: Callable[["Material", "Recipe"], Pairs]
    steps: int
    learning_rate: float
    tokens: int


@dataclass(frozen=True)
class Material:
    """What the makers of pairs need."""

    data: Path
    tokenizer: Any
    seed: int
    count: int  # how many pairs the training will see

    def length(self, messages: list[dict[str, str]]) -> int:
        """Tokens of a conversation."""
        return len(self.tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])

    def fits(self, pair: Pair, tokens: int) -> bool:
        """Whether both versions of a pair are short enough."""
        return all(self.length(pair["prompt"] + pair[side]) <= tokens for side in ("chosen", "rejected"))


def harmless(material: Material, recipe: Recipe) -> Pairs:
    """HH-RLHF, first turns; the publisher's own test split judges."""
    folder = material.data / "hh-single-turn"
    train = load_public("hh_single_turn", folder, split="train")
    test = load_public("hh_single_turn", folder, split="test")
    rows, held_out = list(train.rows), list(test.rows)
    random.Random(material.seed).shuffle(rows)
    random.Random(material.seed).shuffle(held_out)
    # A few times as many as are needed, so that what is left out below can be made up for.
    fitting = [row for row in rows[: 4 * material.count] if material.fits(row, recipe.tokens)]
    judging = [row for row in held_out[: 4 * HELD_OUT] if material.fits(row, recipe.tokens)]
    long = len(rows[: 4 * material.count]) - len(fitting) + len(held_out[: 4 * HELD_OUT]) - len(judging)
    return _split(
        [[_pair(row)] for row in fitting],
        [[_pair(row)] for row in judging],
        material,
        title="Single-turn harmlessness pairs cut from HH-RLHF",
        licence=train.licence,
        source=train.source,
        digests={"train": train.revision, "test": test.revision},
        left_out={f"longer than {recipe.tokens} tokens (of the rows drawn)": long},
    )


def honest(material: Material, recipe: Recipe) -> Pairs:
    """TruthfulQA: the best answer is chosen, each wrong one rejected."""
    loaded = load_public("truthfulqa", material.data / "truthfulqa")
    groups, long = [], 0
    for row in loaded.rows:
        prompt, right = _user(row["prompt"]), row["choices"][row["answer"]]
        pairs = [
            {"prompt": prompt, "chosen": _assistant(right), "rejected": _assistant(wrong)}
            for wrong in row["choices"]
            if wrong != right
        ]
        fitting = [pair for pair in pairs if material.fits(pair, recipe.tokens)]
        long += len(pairs) - len(fitting)
        if fitting:
            groups.append(fitting)
    random.Random(material.seed).shuffle(groups)
    return _split(
        groups[HELD_OUT:],
        groups[:HELD_OUT],
        material,
        title="TruthfulQA, the best answer against the wrong ones",
        licence=loaded.licence,
        source=loaded.source,
        digests={loaded.split: loaded.revision},
        left_out={f"longer than {recipe.tokens} tokens": long, **loaded.left_out},
    )


def helpful(material: Material, recipe: Recipe) -> Pairs:
    """Self-Instruct's seed tasks: a person's answer is chosen, the untrained model's own rejected."""
    path = material.data / "self-instruct-seeds" / "seed_tasks.jsonl"
    tasks, long = [], 0
    for where, row in read_rows(path):
        instance = row["instances"][0]
        request = text_field(row, "instruction", where).strip()
        if str(instance["input"]).strip():
            request += "\n\n" + str(instance["input"]).strip()
        answer = str(instance["output"]).strip()
        if material.length(_user(request) + _assistant(answer)) > recipe.tokens:
            long += 1
        else:
            tasks.append((request, answer))
    random.Random(material.seed).shuffle(tasks)
    groups, same = [], 0
    for (request, answer), own in zip(tasks, _own_answers(tasks, material), strict=True):
        pair = {"prompt": _user(request), "chosen": _assistant(answer), "rejected": _assistant(own)}
        if not own or normalise_prompt(own) == normalise_prompt(answer):
            same += 1
        elif not material.fits(pair, recipe.tokens):
            long += 1
        else:
            groups.append([pair])
    held_out = min(HELD_OUT, len(groups) // 3)
    return _split(
        groups[held_out:],
        groups[:held_out],
        material,
        title="Self-Instruct's seed tasks, a person's answer against the untrained model's own",
        licence="Apache-2.0",
        source="https://github.com/yizhongw/self-instruct (data/seed_tasks.jsonl)",
        digests={"all": _sha256(path)},
        left_out={f"longer than {recipe.tokens} tokens": long, "the model's answer is the person's": same},
    )


RECIPES = {
    "helpful": Recipe(helpful, steps=20, learning_rate=6e-4, tokens=160),
    "honest": Recipe(honest, steps=45, learning_rate=1e-3, tokens=96),
    "harmless": Recipe(harmless, steps=42, learning_rate=1e-3, tokens=96),
}


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _pair(row: dict[str, Any]) -> Pair:
    return {name: row[name] for name in ("prompt", "chosen", "rejected")}


def _sha256(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def _asked(group: Sequence[Pair]) -> str:
    return group[0]["prompt"][-1]["content"]


def _split(
    train: Sequence[list[Pair]], held_out: Sequence[list[Pair]], material: Material, **about: Any
) -> Pairs:
    """Pairs from groups that share a prompt: no prompt of a suite, none (nearly) on both sides."""
    suites = {normalise_prompt(row["prompt"]) for name in names() for row in suite_rows(name)}
    judging = [group for group in held_out if normalise_prompt(_asked(group)) not in suites]
    asked = [group for group in train if normalise_prompt(_asked(group)) not in suites]
    overlap = len(held_out) + len(train) - len(judging) - len(asked)
    judging = judging[:HELD_OUT]
    questions = [_asked(group) for group in judging]
    chosen: list[list[Pair]] = []
    near = 0
    for group in asked:
        if len(chosen) >= material.count:
            break
        if any(rouge_l(_asked(group), question) >= NEAR for question in questions):
            near += 1
        else:
            chosen.append(group)
    # Every question once before any comes a second time with another answer.
    deepest = max(map(len, chosen))
    rounds = [group[k] for k in range(deepest) for group in chosen if k < len(group)]
    about["left_out"] = {
        **about["left_out"],
        "the prompt is one of a suite that ships": overlap,
        "the prompt is nearly one that judges": near,
    }
    return Pairs(rounds[: material.count], [group[0] for group in judging], **about)


def _own_answers(tasks: Sequence[tuple[str, str]], material: Material) -> list[str]:
    """The untrained model's answers, sampled, each cut to whole sentences of about the person's length."""
    model = _base_model()
    tokenizer = material.tokenizer
    answers = [""] * len(tasks)
    lengths = [len(tokenizer(answer)["input_ids"]) for _, answer in tasks]
    order = sorted(range(len(tasks)), key=lengths.__getitem__)
    set_seed(material.seed)
    for start in range(0, len(order), 16):
        batch = order[start : start + 16]
        texts = _write(
            model,
            tokenizer,
            [_user(tasks[index][0]) for index in batch],
            max(lengths[index] for index in batch) + 24,
            do_sample=True,
            temperature=0.7,
            top_p=0.9,
            top_k=0,
        )
        for index, text in zip(batch, texts, strict=True):
            answers[index] = _shorten(text.strip(), len(tasks[index][1]))
    return answers


def _write(
    model: Any, tokenizer: Any, conversations: list[list[dict[str, str]]], tokens: int, **settings: Any
) -> list[str]:
    """Answers of at most ``tokens`` tokens to a batch of conversations."""
    prompts = tokenizer.apply_chat_template(conversations, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(
        prompts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt"
    )
    with torch.no_grad():
        written = model.generate(**inputs, max_new_tokens=tokens, **settings)
    return tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def _shorten(text: str, characters: int) -> str:
    """Whole sentences or lines of ``text`` while they do not exceed ``characters``; at least the first.

    It does not end with a colon where something follows: what a colon promises belongs to it.
    """
    kept = ""
    for part in re.split(r"((?<=\D[.!?])\s+|\n+)", text):
        if kept.strip() and not kept.rstrip().endswith(":") and len(kept) + len(part) > characters:
            break
        kept += part
    return kept.strip()


def _base_model() -> Any:
    folder = embedded.folder() or embedded.pull(report=print)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def log_probabilities(model: Any, tokenizer: Any, pairs: Iterable[Pair], side: str) -> list[float]:
    """log p(answer | prompt) of the ``side`` of every pair, summed over the answer's tokens.

    ``model`` is a causal language model, with or without LoRA layers in its modules.
    """
    sequences = []
    for pair in pairs:
        prompt = tokenizer.apply_chat_template(pair["prompt"], add_generation_prompt=True, return_dict=True)
        whole = tokenizer.apply_chat_template(pair["prompt"] + pair[side], return_dict=True)
        sequences.append((whole["input_ids"], len(prompt["input_ids"])))
    found = [0.0] * len(sequences)
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index][0]))
    for start in range(0, len(order), 8):
        batch = order[start : start + 8]
        width = len(sequences[batch[-1]][0])
        tokens = torch.full((len(batch), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(tokens)
        for row, index in enumerate(batch):
            ids = sequences[index][0]
            tokens[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = 1
        with torch.no_grad():
            hidden = model.model(input_ids=tokens, attention_mask=mask).last_hidden_state
            for row, index in enumerate(batch):
                ids, first = sequences[index]
                # The state before a token predicts it. Only the answer goes through the large output layer.
                logits = model.lm_head(hidden[row, first - 1 : len(ids) - 1])
                chosen = tokens[row, first : len(ids), None]
                found[index] = logits.log_softmax(-1).gather(1, chosen).sum().item()
    return found


def margins(model: Any, tokenizer: Any, pairs: Sequence[Pair]) -> list[float]:
    """log p(chosen) - log p(rejected) of every pair."""
    chosen = log_probabilities(model, tokenizer, pairs, "chosen")
    rejected = log_probabilities(model, tokenizer, pairs, "rejected")
    return [a - b for a, b in zip(chosen, rejected, strict=True)]


def looping(model: Any, tokenizer: Any, pairs: Sequence[Pair]) -> int:
    """How many of the greedy answers to ``pairs`` say the same four words three times.

    Too much training shows here first: likelihoods of given answers may improve while what the model writes
    falls apart.
    """
    answers = _write(model, tokenizer, [pair["prompt"] for pair in pairs], 48, do_sample=False)
    return sum(_loops(answer) for answer in answers)


def _loops(text: str) -> bool:
    words = text.casefold().split()
    phrases = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    return any(count >= 3 for count in phrases.values())


def _rate(hits: Sequence[bool]) -> dict[str, Any]:
    return {"rate": sum(hits) / len(hits), "right": sum(hits), **_interval(wilson(sum(hits), len(hits)))}


def _interval(interval: Interval) -> dict[str, Any]:
    return {"low": interval.low, "high": interval.high, "level": interval.level, "method": interval.method}


def judge(before: Sequence[float], after: Sequence[float], pairs: Sequence[Pair]) -> dict[str, Any]:
    """The figures of one expert on its held-out pairs.

    ``before`` and ``after``: is the chosen answer likelier than the rejected one? ``reward``: has training
    made it likelier relative to the rejected one, which is the sign of DPO's reward β (after - before), and
    which is right half of the time where nothing was learnt. ``longer``: would the longer answer have been
    the right guess?
    """
    hits_before, hits_after = [value > 0 for value in before], [value > 0 for value in after]
    gained = sum(b and not a for a, b in zip(hits_before, hits_after, strict=True))
    lost = sum(a and not b for a, b in zip(hits_before, hits_after, strict=True))
    moved = [b - a for a, b in zip(before, after, strict=True)]
    longer = [len(pair["chosen"][0]["content"]) > len(pair["rejected"][0]["content"]) for pair in pairs]
    return {
        "pairs": len(pairs),
        "before": {**_rate(hits_before), "mean_margin": statistics.fmean(before)},
        "after": {**_rate(hits_after), "mean_margin": statistics.fmean(after)},
        "difference": {
            "rate": (gained - lost) / len(pairs),
            **_interval(adjusted_wald_paired(gained, lost, len(pairs))),
        },
        "reward": {**_rate([value > 0 for value in moved]), "mean": BETA * statistics.fmean(moved)},
        "longer": _rate(longer),
    }


def train(pairs: Pairs, recipe: Recipe, steps: int, seed: int, tokenizer: Any) -> tuple[Any, list[Any]]:
    """A PEFT model after ``steps`` of DPO, and the log of its training."""
    set_seed(seed)  # the adapter is initialised before the trainer sets its own
    with tempfile.TemporaryDirectory() as work:
        trainer = DPOTrainer(
            model=_base_model(),
            args=DPOConfig(
                output_dir=work,
                max_steps=steps,
                per_device_train_batch_size=BATCH,
                learning_rate=recipe.learning_rate,
                lr_scheduler_type="linear",
                warmup_steps=max(1, steps // 10),
                beta=BETA,
                max_length=recipe.tokens,
                precompute_ref_log_probs=True,  # once for every pair, however often training comes back to it
                # TRL's defaults are for a GPU: 16-bit numbers and recomputed activations.
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                dataloader_pin_memory=False,
                save_strategy="no",
                report_to="none",
                logging_steps=5,
                disable_tqdm=True,
                seed=seed,
            ),
            train_dataset=Dataset.from_list(pairs.train),
            processing_class=tokenizer,
            peft_config=LoraConfig(
                r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"
            ),
        )
        trainer.train()
        return trainer.model, trainer.state.log_history


def save(model: Any, folder: Path) -> int:
    """Write the adapter in PEFT's layout; returns the size of its weights in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    # float16 and not bfloat16: the values are far from its range's ends, and it rounds eight times finer.
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    halves = {key: tensor.detach().to(torch.float16).contiguous() for key, tensor in weights.items()}
    path = folder / "adapter_model.safetensors"
    save_file(halves, path, metadata={"format": "pt"})
    config = model.peft_config["default"]
    config.base_model_name_or_path = embedded.HUB_ID  # not the folder of this machine
    config.inference_mode = True
    config.save_pretrained(str(folder))
    path.chmod(0o644)  # safetensors writes for the owner alone
    _write_json(folder / "adapter_config.json", _sorted_sets(config.to_dict()))
    size = path.stat().st_size
    if size >= LIMIT_BYTES:
        raise SystemExit(f"{path}: {size} bytes, and an expert that ships is smaller than {LIMIT_BYTES}")
    return size


def _sorted_sets(values: dict[str, Any]) -> dict[str, Any]:
    """PEFT keeps names in sets, whose order would change from run to run."""
    return {key: sorted(value) if isinstance(value, set) else value for key, value in sorted(values.items())}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def make(name: str, data: Path, output: Path, steps: int | None, seed: int) -> None:
    """Train, save and judge one expert."""
    recipe = RECIPES[name]
    steps = steps or recipe.steps
    began = time.monotonic()
    base = _base_model()
    tokenizer = AutoTokenizer.from_pretrained(base.config._name_or_path)
    material = Material(data, tokenizer, seed, steps * BATCH)
    pairs = recipe.pairs(material, recipe)
    print(f"{name}: {len(pairs.train)} pairs to learn from, {len(pairs.held_out)} held out", flush=True)
    for reason, count in pairs.left_out.items():
        print(f"{name}: left out, {reason}: {count}", flush=True)
    before, asked = margins(base, tokenizer, pairs.held_out), pairs.held_out[:WRITTEN]
    loops_before = looping(base, tokenizer, asked)
    started = time.monotonic()
    # Another start for each: adapters with the same random factor read the same few directions, and merges by
    # singular vectors cannot tell them apart there.
    model, log = train(pairs, recipe, steps, seed + list(RECIPES).index(name), tokenizer)
    seconds = (time.monotonic() - started) / steps
    size = save(model, output / name)
    del model
    # What is judged is what ships: the weights as they were rounded and written.
    PeftModel.from_pretrained(base, output / name)
    after = margins(base, tokenizer, pairs.held_out)
    loops_after = looping(base, tokenizer, asked)
    figures = {
        "expert": name,
        "base": embedded.HUB_ID,
        "weights": embedded.source_of(Path(base.config._name_or_path)).get("weights"),
        "data": {
            "title": pairs.title,
            "licence": pairs.licence,
            "source": pairs.source,
            "files": pairs.digests,
            "pairs_to_learn_from": len(pairs.train),
            "left_out": pairs.left_out,
        },
        "training": {
            "method": "DPO",
            "beta": BETA,
            "steps": steps,
            "pairs_per_step": BATCH,
            "learning_rate": recipe.learning_rate,
            "longest_conversation": recipe.tokens,
            "seed": seed,
            "loss": [round(entry["loss"], 4) for entry in log if "loss" in entry],
            "seconds_per_step_with_reference": round(seconds, 2),
            "minutes_in_all": round((time.monotonic() - began) / 60, 1),
        },
        "adapter": {"rank": RANK, "alpha": ALPHA, "targets": TARGETS, "bytes": size},
        "held_out": judge(before, after, pairs.held_out),
        "looping": {"answers": len(asked), "before": loops_before, "after": loops_after},
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers", "trl", "peft")},
    }
    _write_json(output / name / "figures.json", figures)
    (output / name / "README.md").write_text(card(figures), encoding="utf-8")
    print(json.dumps({key: figures[key] for key in ("held_out", "looping")}, indent=2), flush=True)


LIMITS = {
    "helpful": """\
The tasks are few, so the intervals are wide. The rejected answers are the untrained model's own, cut to about
the person's length. The untrained model finds its own words likelier by construction, so the rate before is
low. What the expert learns is what sets a person's short answer apart from the model's, not whether it is
right; trained for longer, or at a higher rate, it repeats itself.""",
    "honest": """\
TruthfulQA asks about popular misconceptions. Its best answers are often careful, and a model can learn that
tone without the facts. Who measures this expert with TruthfulQA measures it on its own training data.""",
    "harmless": """\
People disagree about many such pairs, and in HH-RLHF the less harmful answer is often the one that says less.
The expert has seen single questions in English, with short answers.""",
}

CARD = """\
---
base_model: {base}
library_name: peft
license: {tag}
pipeline_tag: text-generation
tags: [lora, dpo]
---

# The {expert} expert

A LoRA adapter on the attention of {base} (Apache-2.0).
It is one of three from which the quickstart merges a system: an example, not a product.

| | |
|---|---|
| data | {data[title]} |
| licence of the data | {data[licence]} |
| source of the data | {data[source]} |
| files | {files} |
| pairs to learn from | {data[pairs_to_learn_from]} |
| pairs held out | {held_out[pairs]} |
| left out | {left_out} |
| training | DPO, β = {training[beta]}, learning rate {training[learning_rate]:g}, linear |
| steps | {training[steps]} of {training[pairs_per_step]} pairs, seed {training[seed]} |
| longest conversation | {training[longest_conversation]} tokens |
| time (one core of a busy machine, float32) | {training[minutes_in_all]} minutes in all |
| adapter | rank {adapter[rank]}, α = {adapter[alpha]}, {targets}, float16, {adapter[bytes]} bytes |
| weights of the base | {weights} |
| versions | {packages} |

```
python examples/merge/make_experts.py --data "$TRIVET_DATA" \\
    --experts {expert} --steps {training[steps]} --seed {training[seed]}
```

## On the held-out pairs

| | rate | 95 % interval | mean |
|---|---|---|---|
| before: the chosen answer is likelier than the rejected one | {before} |
| after: the same | {after} |
| after minus before, the same pairs | {difference} |
| training moved the pair the right way (the sign of DPO's reward) | {reward} |
| to compare: the chosen answer is the longer one | {longer} |

Intervals: {held_out[before][method]} for the rates, {held_out[difference][method]} for the difference.
Where training teaches nothing, half of the pairs move the right way.

{verdict}

Of {looping[answers]} greedy answers to held-out prompts (at most 48 tokens), {looping[before]} said the same
four words three times before, {looping[after]} after.

## Limits

{limits}

The adapter is small, on a small model, made in minutes. The figures above are about likelihoods of given
answers; what the model writes is for an evaluation to measure. `figures.json` holds them all.
"""


def card(figures: dict[str, Any]) -> str:
    """The model card."""
    data, held_out = figures["data"], figures["held_out"]
    difference = held_out["difference"]
    return CARD.format(
        **figures,
        tag="mit" if data["licence"] == "MIT" else "apache-2.0",
        files=", ".join(f"{part} `{digest[:19]}…`" for part, digest in data["files"].items()),
        left_out="; ".join(f"{reason}: {count}" for reason, count in data["left_out"].items()),
        targets=", ".join(figures["adapter"]["targets"]),
        packages=", ".join(f"{package} {number}" for package, number in figures["versions"].items()),
        before=_cells(held_out["before"], f"log-ratio {held_out['before']['mean_margin']:.2f}"),
        after=_cells(held_out["after"], f"log-ratio {held_out['after']['mean_margin']:.2f}"),
        difference=f"{100 * difference['rate']:+.1f} points | "
        f"{100 * difference['low']:+.1f} to {100 * difference['high']:+.1f} |",
        reward=_cells(held_out["reward"], f"reward {held_out['reward']['mean']:+.3f}"),
        longer=_cells(held_out["longer"], ""),
        verdict=_verdict(held_out),
        limits=LIMITS[figures["expert"]],
    )


def _cells(figure: dict[str, Any], mean: str) -> str:
    low, high = 100 * figure["low"], 100 * figure["high"]
    return f"{100 * figure['rate']:.1f} % | {low:.1f} to {high:.1f} % | {mean}"


def _verdict(held_out: dict[str, Any]) -> str:
    """What the intervals allow to be said, and no more."""
    difference, reward = held_out["difference"], held_out["reward"]
    if difference["low"] > 0:
        first = "The accuracy rose by more than chance explains."
    elif difference["high"] < 0:
        first = "The accuracy fell by more than chance explains."
    else:
        first = "The accuracy did not change by more than chance explains."
    if reward["low"] > 0.5:
        second = "Training moved held-out pairs the right way more often than chance explains."
    else:
        second = "That training moves held-out pairs the right way was not shown."
    by_length = max(held_out["longer"]["rate"], 1 - held_out["longer"]["rate"])
    third = "more than" if reward["low"] > by_length else "not beyond doubt more than"
    return (
        f"{first}\n{second}\n"
        f"Those {100 * reward['rate']:.1f} % are {third} "
        f"the {100 * by_length:.1f} % of a guess by length alone."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the experts that the command line asks for."""
    parser = argparse.ArgumentParser(description="Train the three experts of the quickstart's merged system.")
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("TRIVET_DATA"),
        help="folder of the data sets (default: the environment variable TRIVET_DATA)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent / "experts",
        help="folder that gets one folder per expert (default: experts beside this file)",
    )
    parser.add_argument("--steps", type=int, help="steps of training (default: each expert's own number)")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the order and the initialisation")
    parser.add_argument(
        "--experts",
        nargs="+",
        choices=sorted(RECIPES),
        default=list(RECIPES),
        help="which to make (default: all three, one after the other)",
    )
    options = parser.parse_args(arguments)
    if options.data is None or not options.data.is_dir():
        parser.error("--data must name the folder of the data sets; so may TRIVET_DATA")
    if options.steps is not None and options.steps < 1:
        parser.error("--steps must be 1 or more")
    for name in options.experts:
        make(name, options.data, options.output, options.steps, options.seed)


if __name__ == "__main__":
    main()
