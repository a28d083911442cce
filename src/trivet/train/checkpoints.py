"""A trainer that loses nothing: checkpoints are whole or absent, and a bad step stops it before any harm."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from trivet._files import sync_folder
from trivet.errors import ConfigError, TrainingError

_STAGING = ".writing"


class ResumableTrainer(Trainer):  # type: ignore[misc]  # transformers is not typed
    """``transformers.Trainer`` with three promises.

    A checkpoint is written under another name and renamed when it is whole and on the disk. A loss or a
    gradient that is not finite raises ``TrainingError`` before the weights change, and what is good by then
    is kept as a checkpoint. What is resumed from a checkpoint gives the same weights as what was never
    interrupted, on a CPU bit by bit: model, optimiser, schedule, random generators and place in the data.

    Raises:
        ConfigError: its arguments do not go together.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        try:
            super().__init__(*arguments, **options)
            if self.args.eval_on_start and self.eval_dataset is None:
                raise ValueError("eval_on_start needs rows to evaluate on")
        except ValueError as error:
            raise ConfigError(
                " ".join(str(error).split())[:400],
                where="trainer",
                hint="mend that field; evaluation during training needs held_out, and is not of every method",
            ) from error
        self._staging: Path | None = None
        self._rows: list[int] = []
        self.add_callback(_CheckGradients(self))

    def check_loss(self, loss: torch.Tensor, rows: Sequence[int]) -> None:
        """Note the batch, and stop where its loss is not finite.

        Raises:
            TrainingError: names the rows of the batch.
        """
        self._rows = list(rows)
        if not torch.isfinite(loss.detach()).all():
            raise self.not_finite(f"the loss is {float(loss.detach())}")

    def not_finite(self, what: str) -> TrainingError:
        """The error of a batch that would spoil the weights; the weights as they are become a checkpoint."""
        step = self.state.global_step
        kept = f"the state after step {step} is kept" if self._keep() else "the last checkpoint is kept"
        return TrainingError(
            f"{what} in step {step + 1}; the batch has the rows {', '.join(str(n + 1) for n in self._rows)}",
            hint=f"{kept}; look at these rows, lower the learning rate, or clip gradients (max_grad_norm)",
        )

    def _keep(self) -> bool:
        step = self.state.global_step
        if not self.model.training or not step or self.args.world_size > 1:
            return False  # several processes would wait for one another
        if not (Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}").is_dir():
            self._save_checkpoint(self.model, trial=None)
        return True

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self._staging = folder / _STAGING
        if self.args.should_save:
            shutil.rmtree(self._staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                _sync(self._staging / name)
                shutil.rmtree(folder / name, ignore_errors=True)
                (self._staging / name).rename(folder / name)
                sync_folder(folder)
                self._rotate(folder)
        finally:
            self._staging = None
        self.accelerator.wait_for_everyone()

    def _rotate(self, folder: Path) -> None:
        kept = checkpoints(folder)
        for old in kept[: -(self.args.save_total_limit or len(kept))]:
            shutil.rmtree(old, ignore_errors=True)


class _CheckGradients(TrainerCallback):  # type: ignore[misc]
    def __init__(self, trainer: ResumableTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        gradients = [
            # Under FSDP each process looks at the part that it holds.
            parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
            for parameter in self._trainer.model.parameters()
            if parameter.grad is not None
        ]
        if not gradients:  # DeepSpeed keeps them to itself
            return
        norms = torch.stack([norm.float().cpu() for norm in torch._foreach_norm(gradients)])
        if not torch.isfinite(norms).all():
            raise self._trainer.not_finite("a gradient is not finite")


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first."""
    found = [
        (int(number), path)
        for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (number := path.name.rpartition("-")[2]).isdigit() and path.is_dir()
    ]
    return [path for _, path in sorted(found)]


def _sync(folder: Path) -> None:
    """Everything in the folder is on the disk afterwards."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    sync_folder(folder)
