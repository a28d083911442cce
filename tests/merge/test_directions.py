"""Check 12: a merge of two experts keeps what each has learnt.

Two adapters of the embedded model are trained with direct preference optimisation (arXiv 2305.18290) on
styles that have nothing to do with one another: how an answer begins, and how it ends. The margin of an axis
is the mean of log p(preferred) − log p(other) on prompts that neither has seen.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytestmark = [pytest.mark.model, pytest.mark.slow]

FACTS = {
    "Which planet is the largest?": "Jupiter is the largest planet.",
    "What is bread made of?": "It is made of flour, water, salt and yeast.",
    "How many legs has a spider?": "A spider has eight legs.",
    "Where do penguins live?": "They live in the southern half of the world.",
    "What do bees make?": "Bees make honey and wax.",
    "What is ice?": "Ice is frozen water.",
    "Which colour is a ripe lemon?": "A ripe lemon is yellow.",
    "What do plants need?": "They need light, water and soil.",
    "How many days has a week?": "A week has seven days.",
    "What is a library for?": "People read and borrow books there.",
    "Who writes programs?": "Programmers write them.",
    "What does a clock show?": "It shows the time.",
}
HELD_OUT = 4  # the last ones
AXES = {
    "beginning": ("Certainly! {}", "Hm. {}"),
    "end": ("{} I hope this helps.", "{} Do not ask again."),
}


class Scored:
    """Log-probabilities of answers under the embedded model, with or without an adapter."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def pairs(self, axis: str, *, held_out: bool) -> list[tuple[list[int], list[int], int]]:
        """(preferred, other, length of the prompt) as token ids."""
        facts = list(FACTS.items())
        preferred, other = AXES[axis]
        found = []
        for question, answer in facts[-HELD_OUT:] if held_out else facts[:-HELD_OUT]:
            chat = [{"role": "user", "content": question}]
            prompt = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            texts = [form.format(answer) + self.tokenizer.eos_token for form in (preferred, other)]
            both = [prompt + self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
            found.append((both[0], both[1], len(prompt)))
        return found

    def margins(self, pairs: list[tuple[list[int], list[int], int]]) -> torch.Tensor:
        """log p(preferred) − log p(other) of each pair."""
        return torch.stack(
            [
                self._log_probability(one, start) - self._log_probability(two, start)
                for one, two, start in pairs
            ]
        )

    def _log_probability(self, tokens: list[int], start: int) -> torch.Tensor:
        logits = self.model(torch.tensor([tokens])).logits[0, start - 1 : -1]
        chosen = torch.tensor(tokens[start:])[:, None]
        return logits.log_softmax(-1).gather(1, chosen).sum()


def train(folder: Path, axis: str, out: Path) -> None:
    """A rank-4 adapter that prefers one side of an axis."""
    peft = pytest.importorskip("peft")
    scored = Scored(folder)
    pairs = scored.pairs(axis, held_out=False)
    with torch.no_grad():
        reference = scored.margins(pairs)
    torch.manual_seed(0)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    scored.model = peft.get_peft_model(scored.model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    trained = [parameter for parameter in scored.model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-3)
    for step in range(8):
        chosen = [(2 * step) % len(pairs), (2 * step + 1) % len(pairs)]
        margins = scored.margins([pairs[number] for number in chosen])
        loss = -torch.nn.functional.logsigmoid(0.1 * (margins - reference[chosen])).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    scored.model.save_pretrained(out)


def test_both_margins_lie_above_the_base(embedded_model, tmp_path):
    from trivet.merge.checkpoint import merge_checkpoints
    from trivet.models import embedded

    folder = embedded.folder()
    assert folder is not None
    for axis in AXES:
        train(folder, axis, tmp_path / axis)
    recipe = tmp_path / "recipe.yaml"
    models = [{"model": str(tmp_path / axis), "parameters": {"weight": 0.5}} for axis in AXES]
    content = {"merge_method": "task_arithmetic", "base_model": embedded_model, "models": models}
    recipe.write_text(yaml.safe_dump(content))
    merge_checkpoints(recipe, tmp_path / "merged")
    base, merged = Scored(folder), Scored(tmp_path / "merged")
    with torch.no_grad():
        for axis in AXES:
            held_out = base.pairs(axis, held_out=True)
            gained = merged.margins(held_out) - base.margins(held_out)
            assert gained.mean() > 0.5, (axis, gained.tolist())
