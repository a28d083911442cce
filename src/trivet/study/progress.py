"""What a person sees while a study runs: one bar for the whole, one for the step, tokens per second."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from trivet._text import printable


class StudyProgress:
    """The bars. Where the console is no terminal, one line is printed as each step begins and ends."""

    def __init__(self, console: Console, steps: int, *, show: bool = True) -> None:
        self.console = console
        self._show = show
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not (show and console.is_terminal),
        )
        self._whole: TaskID = self._bars.add_task("study", total=steps, rate="")
        self._step: TaskID | None = None
        self._tokens = 0
        self._since = 0.0

    def __enter__(self) -> "StudyProgress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        if self._show:
            self._bars.console.print(printable(text), markup=False, highlight=False)

    @contextmanager
    def step(self, name: str, total: int | None) -> Iterator[None]:
        """A step is under way; ``total`` is the number of answers, where it has answers."""
        if not self._bars.console.is_terminal:
            self.say(f"{name} …" if total is None else f"{name} ({total} answers) …")
        self._tokens, self._since = 0, time.monotonic()
        self._step = self._bars.add_task(printable(name), total=total, rate="")
        try:
            yield
        finally:
            self._bars.remove_task(self._step)
            self._step = None

    def sample(self) -> None:
        """One more answer of the step is finished."""
        if self._step is not None:
            self._bars.update(self._step, advance=1)

    def tokens(self, count: int) -> None:
        """Tokens were generated."""
        self._tokens += count
        if self._step is not None:
            rate = self._tokens / max(time.monotonic() - self._since, 1e-9)
            self._bars.update(self._step, rate=f"{rate:.0f} tokens/s")

    def written(self, count: int) -> None:
        """``count`` bytes of the step's output are written; any thread may say so."""
        if self._step is not None:
            self._bars.update(self._step, rate=f"{count / 1e6:.0f} MB")

    def expect(self, steps: int) -> None:
        """How many steps the whole has."""
        self._bars.update(self._whole, total=steps)

    def finished(self, steps: int = 1) -> None:
        """Steps are done."""
        self._bars.update(self._whole, advance=steps)
