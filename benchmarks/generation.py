"""Generation: our PyTorch engine against Inspect's ``hf/`` provider and static batches of transformers.

Embedded model, float32, 64 real prompts, greedy, at most 192 tokens each, lengths by end-of-sequence; tokens
after it do not count. The systems run in the order A B C … C B A and each figure is the mean of its two runs.
Equal text is checked first; texts may part where the two best tokens are a near-tie.

``--systems trivet,inspect,static-16`` runs some of them, ``--once`` only the first half of the order.
``--processor-time`` counts processor time with one thread, which other programs hardly disturb.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from benchmarks.common import real_prompts, report

PROMPTS, MAX_TOKENS, NEAR_TIE = 64, 192, 1e-3
SIZES = (8, 16, 32, 64)
LIMITS = {
    "times_inspect_hf": (3.0, "at least"),
    "times_best_static": (2.0, "at least"),
    "added_latency_ms": (50.0, "at most"),
    "load_seconds": (3.0, "at most"),
}


@dataclass
class Bench:
    """The prompts and the systems, each loaded once, when it first runs."""

    prompts: list[str]
    clock: Callable[[], float] = time.perf_counter
    answers: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    _loaded: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """``make()``, remembered under ``name``."""
        if name not in self._loaded:
            self._loaded[name] = make()
        return self._loaded[name]

    def run(self, system: str) -> tuple[int, float]:
        """Tokens generated (end-of-sequence included) and seconds, after a warm-up."""
        if system == "trivet":
            return self._engine("torch", system)
        if system == "llamacpp":
            return self._engine("llamacpp", system)
        if system == "inspect":
            return self._inspect()
        return self._static(int(system.removeprefix("static-")), system)

    def _engine(self, kind: str, system: str) -> tuple[int, float]:
        from trivet.models.engines import get_engine

        engine = get_engine("smollm2-135m-instruct", engine=kind)
        handles = [engine.submit(_request(prompt, 4)) for prompt in ("Hello", "Good day")]
        for handle in handles:
            handle.result()
        tree = getattr(getattr(engine, "_runner", None), "tree", None)
        if tree is not None:
            tree.clear()  # the second run must not find the prompts of the first
        started = self.clock()
        handles = [engine.submit(_request(prompt, MAX_TOKENS)) for prompt in self.prompts]
        completions = [handle.result() for handle in handles]
        seconds = self.clock() - started
        self.answers[system] = [completion.continuation.tokens for completion in completions]
        ended = sum(completion.stop_reason == "stop" for completion in completions)
        return sum(map(len, self.answers[system])) + ended, seconds

    def model(self) -> tuple[Any, Any]:
        """Plain transformers: model and tokenizer."""

        def make() -> tuple[Any, Any]:
            from transformers import AutoModelForCausalLM, AutoTokenizer

            folder = _folder()
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            return model, AutoTokenizer.from_pretrained(folder, padding_side="left")

        loaded: tuple[Any, Any] = self.once("transformers", make)
        return loaded

    def _static(self, size: int, system: str) -> tuple[int, float]:
        model, tokenizer = self.model()
        texts = [
            tokenizer.apply_chat_template(_chat(prompt), tokenize=False, add_generation_prompt=True)
            for prompt in self.prompts
        ]
        order = sorted(range(len(texts)), key=lambda index: len(tokenizer(texts[index])["input_ids"]))
        answers: list[tuple[int, ...]] = [()] * len(texts)
        count = 0
        started = self.clock()
        for first in range(0, len(order), size):
            batch = order[first : first + size]
            inputs = tokenizer([texts[index] for index in batch], return_tensors="pt", padding=True)
            output = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
            for index, row in zip(batch, output[:, inputs["input_ids"].shape[1] :].tolist()):
                ended = tokenizer.eos_token_id in row
                answers[index] = tuple(row[: row.index(tokenizer.eos_token_id)] if ended else row)
                count += len(answers[index]) + ended
        seconds = self.clock() - started
        self.answers[system] = answers
        return count, seconds

    def _inspect(self) -> tuple[int, float]:
        from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model

        config = GenerateConfig(max_tokens=MAX_TOKENS, max_connections=PROMPTS)
        model = self.once(
            "inspect",
            lambda: get_model(
                "hf/local", model_path=_folder(), device="cpu", do_sample=False, config=config, memoize=False
            ),
        )

        async def ask() -> list[Any]:
            calls = (model.generate([ChatMessageUser(content=prompt)]) for prompt in self.prompts)
            return list(await asyncio.gather(*calls))

        started = self.clock()
        outputs = asyncio.run(ask())
        seconds = self.clock() - started
        _, tokenizer = self.model()
        answers = [
            tuple(tokenizer(output.completion, add_special_tokens=False)["input_ids"]) for output in outputs
        ]
        self.answers["inspect"] = answers
        return sum(len(answer) + (len(answer) < MAX_TOKENS) for answer in answers), seconds

    def unequal(self, system: str) -> tuple[int, int]:
        """Answers that part from ours: in all, and at no near-tie."""
        parted, wrong = 0, 0
        model, tokenizer = self.model()
        for prompt, ours, theirs in zip(self.prompts, self.answers["trivet"], self.answers[system]):
            shorter = min(len(ours), len(theirs))
            at = next((i for i in range(shorter) if ours[i] != theirs[i]), shorter)
            if at == len(ours) == len(theirs):
                continue
            parted += 1
            tokens = tokenizer.apply_chat_template(
                _chat(prompt), add_generation_prompt=True, return_dict=False
            )
            with torch.inference_mode():
                logits = model(torch.tensor([[*tokens, *ours[:at]]]), logits_to_keep=1).logits[0, -1]
            best = logits.log_softmax(-1).topk(2).values
            wrong += int(best[0] - best[1] > NEAR_TIE)
        return parted, wrong


def _folder() -> str:
    from trivet.models import embedded

    return str(embedded.folder() or embedded.pull())


def _chat(prompt: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}]


def _request(prompt: str, max_tokens: int) -> Any:
    from trivet.models.engine import Request
    from trivet.models.operations import Extend, Program, ProgramContext

    def program(context: ProgramContext) -> Program:
        yield Extend(context.prompt, context.max_tokens, commit=True)

    return Request(_chat(prompt), program, seed=0, max_tokens=max_tokens)


def added_latency(bench: Bench, tokens: int = 8, repeats: int = 7) -> tuple[float, float]:
    """Median milliseconds of one short request in our engine, and of its bare forward passes."""
    from trivet.models.engines import get_engine

    engine = get_engine("smollm2-135m-instruct")
    model, _ = bench.model()
    ours, bare = [], []
    for repeat in range(repeats):
        text = f"{repeat} Which city is the capital of France?"  # nothing but the system prompt is shared
        prompt = engine.render(_chat(text))
        started = time.perf_counter()
        engine.submit(_request(text, tokens)).result()
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        with torch.inference_mode():
            feed, cache = torch.tensor([prompt]), None
            for _ in range(tokens):
                output = model(feed, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, feed = output.past_key_values, output.logits[:, -1].argmax(-1)[:, None]
        bare.append(time.perf_counter() - started)
    return 1000 * sorted(ours)[repeats // 2], 1000 * sorted(bare)[repeats // 2]


def load_seconds() -> tuple[float, float]:
    """Seconds to load the cached model in a fresh process, and with the imports of torch and transformers."""
    code = (
        "import time; start = time.perf_counter()\n"
        "import torch, transformers\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "from trivet.models.engines import get_engine\n"
        "middle = time.perf_counter()\n"
        "get_engine('smollm2-135m-instruct')\n"
        "end = time.perf_counter(); print(end - middle, end - start)"
    )
    runs = []
    for _ in range(3):
        output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        runs.append(tuple(map(float, output.stdout.split())))
    runs.sort()
    return runs[1][0], runs[1][1]


def main(arguments: list[str]) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks generation", description=__doc__)
    everything = ["trivet", "inspect", *(f"static-{size}" for size in SIZES), "llamacpp"]
    parser.add_argument("--systems", default=",".join(everything))
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    options = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    systems = options.systems.split(",")
    bench = Bench(real_prompts(options.prompts))
    if options.processor_time:
        torch.set_num_threads(1)
        bench.clock = time.process_time
    rates: dict[str, list[float]] = {}
    order = systems if options.once else [*systems, *reversed(systems)]
    for system in order:
        count, seconds = bench.run(system)
        rates.setdefault(system, []).append(count / seconds)
        print(f"{system}: {count} tokens in {seconds:.1f} s, {count / seconds:.1f} tokens/s", flush=True)
    figures: dict[str, Any] = {"prompts": options.prompts, "max_tokens": MAX_TOKENS}
    figures["clock"] = "processor time, one thread" if options.processor_time else "wall"
    mean = {system: sum(values) / len(values) for system, values in rates.items()}
    figures["tokens_per_second"] = {system: round(value, 1) for system, value in mean.items()}
    if "trivet" in mean:
        figures["parted"] = {
            system: dict(zip(("all", "not_near_tie"), bench.unequal(system)))
            for system in systems
            if system not in {"trivet", "llamacpp"}
        }
        static = [value for system, value in mean.items() if system.startswith("static-")]
        if static:
            figures["times_best_static"] = round(mean["trivet"] / max(static), 2)
        if "inspect" in mean:
            figures["times_inspect_hf"] = round(mean["trivet"] / mean["inspect"], 2)
        ours, bare = added_latency(bench)
        figures |= {"latency_ms": round(ours, 1), "bare_latency_ms": round(bare, 1)}
        figures["added_latency_ms"] = round(ours - bare, 1)
        alone, imports = load_seconds()
        figures |= {"load_seconds": round(alone, 2), "load_with_imports_seconds": round(imports, 2)}
    report("generation", figures, LIMITS)
