"""The latency step: a few prompts, one at a time, after a warm-up.

Answers in a study are generated many at a time, so their wall time says little about one user's wait. Here
each system answers prompts of the study alone. Peak memory is read in the same step: the process' high-water
mark is reset before it where the kernel allows it (Linux: ``/proc/self/clear_refs``).
"""

import resource
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trivet.errors import ContextLengthError, UnsupportedError

PROMPTS = 16
WARM_UP = 1


@dataclass(frozen=True)
class Latency:
    """Seconds of single answers, in the order asked; ``tokens`` is the length of each.

    ``peak_memory_bytes`` is of the whole process while this system answered, ``None`` where it is not known.
    """

    seconds: tuple[float, ...]
    first_token: tuple[float, ...]
    tokens: tuple[int, ...]
    peak_memory_bytes: int | None

    @property
    def median(self) -> float:
        """Median seconds an answer."""
        return statistics.median(self.seconds)


def measure_latency(
    answer: Callable[[str, int], tuple[float, float | None, int]],
    prompts: Sequence[str],
    *,
    on_answer: Callable[[], None] = lambda: None,
) -> Latency:
    """Ask each prompt alone.

    Args:
        answer: answers a prompt given its number, and returns seconds, seconds to the first token and the
            number of tokens.
        prompts: one or more; the first is asked ``WARM_UP`` times more beforehand and not counted. Those
            that the system cannot answer (longer than its context, say) are left out.

    Raises:
        ContextLengthError, UnsupportedError: it can answer none of them.
    """
    warm = 0
    seconds, first, tokens = list[float](), list[float](), list[int]()
    for number, prompt in enumerate(prompts, 1):
        try:
            while warm < WARM_UP:
                answer(prompt, 0)
                warm += 1
                reset_peak_memory()
            took, to_first, count = answer(prompt, number)
        except (ContextLengthError, UnsupportedError) as error:  # measured as "could not score" elsewhere
            refused = error
            continue
        seconds.append(took)
        tokens.append(count)
        if to_first is not None:
            first.append(to_first)
        on_answer()
    if not seconds:
        raise refused
    return Latency(tuple(seconds), tuple(first), tuple(tokens), peak_memory())


def reset_peak_memory() -> bool:
    """Set the process' high-water mark back to what it uses now; ``False`` where the kernel cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory() -> int | None:
    """The process' high-water mark of resident memory in bytes."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)
