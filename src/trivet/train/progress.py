"""What a run says while it trains: one line an entry of the log, with the time that is left."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_SHOWN = (
    "loss",
    "accuracy",
    "rewards/accuracies",
    "rewards/margins",
    "mean_reward",
    "cost",
    "predicted_bound",
    "lambda",
    "kl",
    "learning_rate",
)


class ProgressLines(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Calls ``say`` with a line for each entry of the log."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._started, self._first = 0.0, 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """The clock starts, at the step that the run goes on from."""
        self._started, self._first = time.monotonic(), state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> None:
        """Say where the run is and what it will take."""
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        done = state.global_step - self._first
        left = (time.monotonic() - self._started) / max(done, 1) * (state.max_steps - state.global_step)
        figures = ", ".join(f"{name} {float(logs[name]):.4g}" for name in _SHOWN if name in logs)
        self._say(f"step {state.global_step} of {state.max_steps}: {figures}; {duration(left)} left")


def duration(seconds: float) -> str:
    """``90`` → ``1 min 30 s``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
