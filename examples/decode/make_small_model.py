"""Make a small model out of SmolLM2-135M-Instruct, for speculative emulated fine-tuning.

The blocks that change the hidden states least are left out ("ShortGPT", arXiv 2403.03853: block influence is
1 − the cosine between a block's input and output), and the rest is distilled: the Kullback–Leibler divergence
from the whole model is lowered on answers that the whole model itself writes to prompts of the suites that
Trivet ships (all but ``instructions``, which the benchmark asks). Vocabulary, embedding and output layer stay
those of the whole model.

The LoRA experts of ``examples/merge/experts`` are cut alike: an expert of the small model is the large one's
change of the blocks that were kept.

It takes about a quarter of an hour on one core. The same settings give the same weights on the same machine;
running the experts needs ``pip install 'trivet[train]'``::

    python examples/decode/make_small_model.py --output build/small

writes ``build/small/base`` and ``build/small/helpful``, ``honest``, ``harmless`` (adapters on it).
"""

import argparse
import itertools
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cosine_similarity, kl_div
from transformers import AutoModelForCausalLM, AutoTokenizer

from trivet._files import write_json
from trivet.data.suites import suite_rows
from trivet.models import embedded
from trivet.models.engine import Request, run_all
from trivet.models.engines import get_engine
from trivet.models.operations import Extend, Program, ProgramContext, Sampling, Tokens

SUITES = ("short_questions", "honest", "capability", "over_refusal", "harmless")
EXPERTS = Path(__file__).resolve().parent.parent / "merge" / "experts"
LEARNING_RATE, WARM_UP, BATCH = 3e-4, 5, 8
Text = tuple[Tokens, Tokens]
"""A prompt and its answer."""


def write_answers(count: int, max_tokens: int, seed: int) -> list[Text]:
    """Answers of the whole model, drawn at temperature 1, to ``count`` prompts that ship."""
    prompts = [str(row["prompt"]) for suite in SUITES for row in suite_rows(suite)]
    random.Random(seed).shuffle(prompts)
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts[:count]]

    def program(context: ProgramContext) -> Program:
        yield Extend(context.prompt, context.max_tokens, sampling=context.sampling, commit=True)

    engine = get_engine(embedded.NAME)
    requests = [
        Request(chat, program, seed + index, max_tokens, Sampling(temperature=1.0))
        for index, chat in enumerate(chats)
    ]
    written = list(run_all(engine, requests))
    texts = [(engine.render(chat), answer.continuation.tokens) for chat, answer in zip(chats, written)]
    engine.close()
    return [text for text in texts if text[1]]


@torch.inference_mode()
def read(model: Any, texts: Sequence[Text]) -> tuple[list[torch.Tensor], list[float]]:
    """The last hidden states from which each answer's tokens are predicted [tokens, width], and the mean
    influence of each block."""
    states, influence, count = [], torch.zeros(model.config.num_hidden_layers), 0
    last: list[torch.Tensor] = []
    # transformers' last hidden state is after the final norm; the last block's own output comes by a hook.
    hook = model.model.layers[-1].register_forward_hook(lambda module, args, output: last.append(output))
    for prompt, answer in texts:
        output = model.model(torch.tensor([[*prompt, *answer]]), output_hidden_states=True, use_cache=False)
        levels = [*output.hidden_states[:-1], last.pop()]
        for index, (before, after) in enumerate(itertools.pairwise(levels)):
            influence[index] += (1 - cosine_similarity(before[0], after[0], dim=-1)).sum()
        count += len(prompt) + len(answer)
        states.append(output.last_hidden_state[0, len(prompt) - 1 : -1].clone())
    hook.remove()
    return states, (influence / count).tolist()


def cut(model: Any, influence: Sequence[float], layers: int) -> list[int]:
    """Leave ``layers`` blocks in ``model``, those of the largest influence; first and last always stay."""
    count = len(influence)
    inner = sorted(range(1, count - 1), key=lambda index: influence[index], reverse=True)
    kept = sorted([0, count - 1, *inner[: layers - 2]])
    blocks = torch.nn.ModuleList([model.model.layers[index] for index in kept])
    for index, block in enumerate(blocks):
        block.self_attn.layer_idx = index
    model.model.layers = blocks
    model.config.num_hidden_layers = layers
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[index] for index in kept]
    return kept


def batches(texts: int, seed: int) -> Iterator[list[int]]:
    """Places of texts, in a new order each time round, without end."""
    chance = random.Random(seed)
    while True:
        order = list(range(texts))
        chance.shuffle(order)
        yield from (order[first : first + BATCH] for first in range(0, texts - BATCH + 1, BATCH))


def _padded(texts: Sequence[Text]) -> torch.Tensor:
    rows = [[*prompt, *answer] for prompt, answer in texts]
    return torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])  # on the right


def _student(model: Any, texts: Sequence[Text]) -> torch.Tensor:
    """The small model's last hidden states of all answers, one after another."""
    hidden = model.model(_padded(texts), use_cache=False).last_hidden_state
    parts = [hidden[i, len(p) - 1 : len(p) + len(a) - 1] for i, (p, a) in enumerate(texts)]
    return torch.cat(parts)


def distil(model: Any, texts: list[Text], states: list[torch.Tensor], steps: int, seed: int) -> None:
    """Lower the divergence of the model from the whole one, whose last hidden states are given."""
    model.get_input_embeddings().weight.requires_grad_(False)  # and with it the output layer
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM_UP, 1.0) * (1 - step / steps)
    )
    started = time.perf_counter()
    for step, places in zip(range(steps), batches(len(texts), seed)):
        with torch.no_grad():
            wanted = model.lm_head(torch.cat([states[place] for place in places])).log_softmax(-1)
        got = model.lm_head(_student(model, [texts[place] for place in places])).log_softmax(-1)
        loss = kl_div(got, wanted, reduction="batchmean", log_target=True)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        if step % 10 == 0 or step == steps - 1:
            minutes = (time.perf_counter() - started) / 60
            print(f"step {step}: divergence {loss.item():.3f} nats, {minutes:.1f} minutes", flush=True)


@torch.inference_mode()
def agreement(model: Any, texts: list[Text], states: list[torch.Tensor]) -> dict[str, float]:
    """How near the model is to the whole one, a token: share of equal best tokens, and Σ min(p, q), which is
    the probability that a drafted token is accepted."""
    best, overlap, count = 0.0, 0.0, 0
    for text, state in zip(texts, states):
        p, q = (model.lm_head(rows).softmax(-1) for rows in (state, _student(model, [text])))
        best += float((p.argmax(-1) == q.argmax(-1)).sum())
        overlap += float(torch.minimum(p, q).sum())
        count += len(p)
    return {"best_token": round(best / count, 3), "overlap": round(overlap / count, 3), "tokens": count}


def cut_expert(source: Path, target: Path, kept: list[int], base: Path) -> None:
    """Write the part of a LoRA adapter that changes the blocks ``kept``, as an adapter on ``base``."""
    places = {old: new for new, old in enumerate(kept)}
    tensors = {}
    for key, tensor in load_file(source / "adapter_model.safetensors").items():
        match = re.search(r"\.layers\.(\d+)\.", key)
        if match is None:
            raise SystemExit(f"{source}: {key} is not of a block")
        if int(match[1]) in places:
            tensors[key.replace(match[0], f".layers.{places[int(match[1])]}.")] = tensor
    target.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    write_json(target / "adapter_config.json", config | {"base_model_name_or_path": str(base.resolve())})


def make(output: Path, *, layers: int, steps: int, prompts: int, max_tokens: int, seed: int) -> None:
    """Write the small model and its experts to ``output``."""
    torch.manual_seed(seed)
    folder = embedded.folder() or embedded.pull()
    texts = write_answers(prompts, max_tokens, seed)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    states, influence = read(model, texts)
    held_out = max(len(texts) // 16, 1)
    kept = cut(model, influence, layers)
    before = agreement(model, texts[:held_out], states[:held_out])
    print(f"blocks {kept}; before distilling {before}", flush=True)
    distil(model, texts[held_out:], states[held_out:], steps, seed)
    after = agreement(model, texts[:held_out], states[:held_out])
    print(f"after {after}")
    base = output / "base"
    model.save_pretrained(base)
    AutoTokenizer.from_pretrained(folder).save_pretrained(base)
    for expert in sorted(path for path in EXPERTS.iterdir() if path.is_dir()):
        cut_expert(expert, output / expert.name, kept, base)
    figures = {"layers": kept, "steps": steps, "texts": len(texts), "seed": seed}
    write_json(output / "figures.json", {**figures, "before": before, "after": after})


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("build/small"), help="folder to write to")
    parser.add_argument("--layers", type=int, default=22, help="blocks that stay, of 30")
    parser.add_argument(
        "--steps", type=int, default=60, help="steps of distilling, about 12 s each on a core"
    )
    parser.add_argument("--prompts", type=int, default=240, help="prompts that the model answers")
    parser.add_argument("--max-tokens", type=int, default=48, help="longest answer")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not 2 <= options.layers <= 30 or options.steps < 1 or options.prompts < 2 * BATCH:
        parser.error(f"--layers is 2 to 30, --steps at least 1, --prompts at least {2 * BATCH}")
    make(
        options.output,
        layers=options.layers,
        steps=options.steps,
        prompts=options.prompts,
        max_tokens=options.max_tokens,
        seed=options.seed,
    )


if __name__ == "__main__":
    main()
