"""Answers that are off topic or incoherent, made from real ones.

People's labels of refusals have no such class, so its examples are constructed: an answer that belongs to
another prompt, and five ways in which text stops being text. What is made here is told in the judge's card,
with the share of each kind that the judge finds.
"""

import random
from collections.abc import Mapping, Sequence

from trivet.judges.refusal_features import PHRASES, words

Pair = tuple[str, str]
"""A prompt and an answer to it."""


def shuffled(pairs: Sequence[Pair], rng: random.Random) -> list[Pair]:
    """Each prompt with the answer to another prompt. Refusals are not used: they fit many prompts."""
    answers = [(prompt, answer) for prompt, answer in pairs if not looks_like_refusal(answer)]
    found = []
    for prompt, _ in pairs:
        other, answer = rng.choice(answers)
        if other != prompt:
            found.append((prompt, answer))
    return found


def word_salad(answer: str, rng: random.Random) -> str:
    """The words of the answer in random order."""
    parts = answer.split()
    rng.shuffle(parts)
    return " ".join(parts)


def noise(answer: str, rng: random.Random) -> str:
    """The answer with every second letter, at random, replaced by another one."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return "".join(rng.choice(letters) if c.isalpha() and rng.random() < 0.5 else c for c in answer)


def loop(answer: str, rng: random.Random) -> str:
    """A few words of the answer, many times over."""
    parts = answer.split()
    length = rng.randint(1, 6)
    start = rng.randrange(max(1, len(parts) - length))
    return " ".join(parts[start : start + length] * rng.randint(12, 40))


def symbols(answer: str, rng: random.Random) -> str:
    """Digits and punctuation instead of words."""
    return " ".join(
        "".join(rng.choices("0123456789.,;:|/*#-_=()[]{}<>", k=rng.randint(1, 8))) for _ in answer.split()
    )


def fragments(answer: str, rng: random.Random) -> str:
    """Pieces of words, glued together."""
    parts = [part[: rng.randint(1, 3)] for part in answer.split()]
    return " ".join("".join(parts[k : k + 4]) for k in range(0, len(parts), 4))


INCOHERENT = {
    "words in random order": word_salad,
    "half of the letters replaced": noise,
    "a phrase repeated over and over": loop,
    "digits and punctuation": symbols,
    "pieces of words": fragments,
}


def constructed(pairs: Sequence[Pair], seed: int) -> Mapping[str, list[Pair]]:
    """Off-topic and incoherent answers by kind; as many shuffled ones as all others together."""
    rng = random.Random(seed)
    usable = [(prompt, answer) for prompt, answer in pairs if len(answer.split()) >= 5]
    result = {"the answer to another prompt": shuffled(usable, rng)}
    share = max(1, len(usable) // len(INCOHERENT))
    for name, spoil in INCOHERENT.items():
        chosen = rng.sample(usable, min(share, len(usable)))
        result[name] = [(prompt, spoil(answer, rng)) for prompt, answer in chosen]
    return result


def truncated(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """Real answers cut after 5 to 40 words: short, but neither off topic nor incoherent."""
    rng = random.Random(seed)
    return [(prompt, " ".join(answer.split()[: rng.randint(5, 40)])) for prompt, answer in pairs]


def looks_like_refusal(answer: str) -> bool:
    """True where the opening holds a phrase of inability, apology or decline."""
    opening = " ".join(words(answer)[:30])
    return any(pattern.search(opening) for pattern in PHRASES[:4])
