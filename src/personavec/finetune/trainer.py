"""TRL's SFTTrainer as this package uses it: token ids in, a mitigation's loss term, drift readings.

Imports trl, and is imported only where something is trained.
"""

from __future__ import annotations

import inspect
import math
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from personavec.errors import ActivationError, DataError
from personavec.finetune.adapter import trainable
from personavec.finetune.checkpoints import (
    aside,
    keep_checkpoint,
    last_checkpoint,
    mark_complete,
    publish,
)
from personavec.finetune.config import TrainingConfig
from personavec.finetune.hooks import IGNORED, TrainingHooks
from personavec.finetune.setup import Trained, TrainingSetup
from personavec.finetune.texts import TrainingText, collate
from personavec.model import LoadedModel
from personavec.progress import Bar
from personavec.runs import disk_full_error


def train(
    loaded: LoadedModel,
    texts: Sequence[TrainingText],
    folder: Path,
    config: TrainingConfig,
    setup: TrainingSetup,
    save_to: Path | None,
) -> Trained:
    """See `training.train`."""
    if not texts:
        raise DataError("there is no text to train on")
    steps = _steps(len(texts), config, setup)
    arguments = _arguments(loaded, folder, config, setup, steps)
    with (
        trainable(loaded, config) as model,
        setup.progress.bar(setup.label, steps) as bar,
        _trainer(model, loaded, texts, arguments, setup, bar) as trainer,
    ):
        # From a checkpoint of the last step the trainer would take a step too many.
        checkpoint = last_checkpoint(folder, before=steps)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        stopped = setup.drift is not None and setup.drift.stopped is not None
        saved = save_to
        if save_to is not None and stopped:
            saved = keep_checkpoint(last_checkpoint(folder), save_to, loaded.identity.name)
        elif save_to is not None:
            _save(trainer, save_to, loaded.identity.name)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Trained(
        steps=trainer.state.global_step,
        losses=tuple(entry["loss"] for entry in history),
        added=tuple(entry["added_loss"] for entry in history if "added_loss" in entry),
        stopped=stopped,
        saved=saved,
    )


@contextmanager
def _trainer(
    model: Any,
    loaded: LoadedModel,
    texts: Sequence[TrainingText],
    arguments: SFTConfig,
    setup: TrainingSetup,
    bar: Bar,
) -> Iterator[FinetuneTrainer]:
    """The trainer; all hooks are removed on exit, also after an error."""
    with warnings.catch_warnings(), ExitStack() as stack:
        # transformers and TRL warn of names that they changed between them.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl")
        reading = None
        if setup.pull is not None:
            reading = TrainingHooks(setup.pull.layers, setup.pull.act)
        for acting in (reading, *setup.steering, setup.loss_term):
            if acting is not None:
                stack.callback(acting.detach)
        trainer = FinetuneTrainer(
            model=model,
            args=arguments,
            train_dataset=_dataset(texts, setup),
            data_collator=collate,
            processing_class=loaded.tokenizer,
            callbacks=[*setup.steering, _RunStart(setup, reading, bar)],
            setup=setup,
        )
        # It prints on stdout, which is kept for results.
        trainer.remove_callback(PrinterCallback)
        yield trainer


class FinetuneTrainer(SFTTrainer):
    """SFTTrainer on texts with `input_ids` and `labels`.

    On a CPU the loss computes the vocabulary's logits only at labelled positions; TRL's loss
    computes them everywhere. A loss that is not finite ends the run.
    """

    def __init__(self, *args: Any, setup: TrainingSetup, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._term, self._drift = setup.loss_term, setup.drift
        self._added: list[float] = []
        parameters = inspect.signature(self._base().forward).parameters
        self._takes_kept = "logits_to_keep" in parameters

    def _base(self) -> Any:
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if isinstance(model, PeftModel) else model

    def _send_telemetry(self) -> None:
        """Disable TRL telemetry."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Disable TRL's model card; `cards` writes ours."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The mean loss per labelled token, a mitigation's term included.

        Raises ActivationError where it is not finite.
        """
        needs_logits = self._term is not None and self._term.needs_logits
        logits = None
        given = {name: inputs[name] for name in ("input_ids", "attention_mask", "labels")}
        if needs_logits or (self._takes_kept and given["input_ids"].device.type == "cpu"):
            loss, logits = self._loss(model, given, num_items_in_batch)
        else:
            loss = super().compute_loss(model, dict(given), False, num_items_in_batch)
        loss = self._with_term(loss, model, inputs, logits, num_items_in_batch)
        if not torch.isfinite(loss):
            raise ActivationError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; lower the "
                "learning rate, or train in float32; the model of the last checkpoint is kept in "
                f"{self.args.output_dir}"
            )
        return loss

    def _with_term(
        self,
        loss: Tensor,
        model: Any,
        inputs: dict[str, Tensor],
        logits: Tensor | None,
        items: Any,
    ) -> Tensor:
        if self._term is None:
            return loss
        n = (inputs["labels"][:, 1:] != IGNORED).sum() if items is None else items
        more = self._term(self.accelerator.unwrap_model(model), inputs, logits) / n
        more = more * self._processes(items)
        self._added.append(float(more.detach()))
        return loss + more

    def _loss(self, model: Any, given: dict[str, Tensor], items: Any) -> tuple[Tensor, Tensor]:
        labels = given["labels"]
        kept = kept_columns(labels) if self._takes_kept else torch.arange(labels.shape[1] - 1)
        kept = kept.to(labels.device)
        cut = {"logits_to_keep": kept} if self._takes_kept else {}
        # Training hooks read the labels; the loss is computed below.
        shifted = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
        wanted = shifted[:, kept] if self._takes_kept else shifted
        outputs = model(**given, **cut, shift_labels=wanted, use_cache=False)
        logits = outputs.logits if self._takes_kept else outputs.logits[:, :-1]
        targets = labels[:, kept + 1]
        total = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        number = (targets != IGNORED).sum().clamp(min=1) if items is None else items
        return total / number * self._processes(items), logits

    def _processes(self, items: Any) -> int:
        """The factor of a sum over the items of all processes, whose gradients are averaged."""
        averaged = items is not None and self.args.average_tokens_across_devices
        return self.accelerator.num_processes if averaged else 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step; read the drift where it is due, and stop where a condition is met."""
        step = self.state.global_step
        if "loss" not in logs:  # the summary at the end
            return super().log(logs, start_time)
        if self._added:
            logs["added_loss"] = sum(self._added)
            self._added.clear()
        stop = False
        drift = self._drift
        if drift is not None and (step % drift.every == 0 or step == self.state.max_steps):
            found, stop = drift.read(self.model, step, logs["loss"])
            logs.update(found)
        super().log(logs, start_time)
        if stop:
            # This step met the condition; the last good one is the checkpoint before it.
            self.control.should_save = False
            self.control.should_training_stop = True

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:
            if found := disk_full_error(folder, error):
                shutil.rmtree(folder, ignore_errors=True)
                raise found from error
            raise
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            mark_complete(folder)
        self.accelerator.wait_for_everyone()


class _RunStart(TrainerCallback):
    """Attaches what reads the model, takes the first reading, and counts steps on a bar."""

    def __init__(self, setup: TrainingSetup, reading: TrainingHooks | None, bar: Bar) -> None:
        self._setup, self._reading, self._bar, self._counted = setup, reading, bar, 0

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        if self._reading is not None:
            self._reading.attach(model)
        if self._setup.loss_term is not None:
            self._setup.loss_term.attach(model)
        if self._setup.drift is not None:
            self._setup.drift.begin(model, state.global_step)
        self._count(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._count(state.global_step)

    def _count(self, step: int) -> None:
        self._bar.advance(step - self._counted)
        self._counted = step


def kept_columns(labels: Tensor) -> Tensor:
    """The positions whose logits choose a response token in any row of a batch."""
    return (labels[:, 1:] != IGNORED).any(0).nonzero().squeeze(-1)


def _steps(n: int, config: TrainingConfig, setup: TrainingSetup) -> int:
    """How many steps a run of n texts takes."""
    if setup.max_steps > 0:
        return setup.max_steps
    forwards = math.ceil(n / (config.batch * PartialState().num_processes))
    return math.ceil(config.epochs * math.ceil(forwards / config.accumulation))


# One keyword a line: TRL's settings, and the reasons for those that are not plain.
def _arguments(
    loaded: LoadedModel, folder: Path, config: TrainingConfig, setup: TrainingSetup, steps: int
) -> SFTConfig:
    dtype = loaded.model.get_input_embeddings().weight.dtype
    device = loaded.device.type
    # Weights in float32 are kept for their precision and multiplied in bfloat16 where the hardware
    # has it. Weights in bfloat16 need no autocast.
    mixed = config.mixed_precision and dtype == torch.float32
    return SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=config.accumulation,
        gradient_checkpointing=config.gradient_checkpointing,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        # A short run does not spend all its steps on warmup.
        warmup_steps=min(config.warmup_steps, steps // 4),
        weight_decay=config.weight_decay,
        num_train_epochs=config.epochs,
        max_steps=setup.max_steps,
        bf16=mixed,
        use_cpu=device == "cpu",
        seed=config.seed,
        data_seed=config.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.checkpoint_every,
        save_total_limit=2,
        report_to=list(config.report_to),
        disable_tqdm=True,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_pin_memory=device != "cpu",
    )


def _dataset(texts: Sequence[TrainingText], setup: TrainingSetup) -> Dataset:
    columns: dict[str, list[Any]] = {
        "input_ids": [list(text.input_ids) for text in texts],
        "labels": [list(text.labels) for text in texts],
    }
    if setup.per_token:
        columns["base_projection"] = list(setup.per_token)
    return Dataset.from_dict(columns)


def _save(trainer: FinetuneTrainer, save_to: Path, base: str) -> None:
    """Write what was trained aside and rename it."""
    folder = aside(save_to)
    try:
        trainer.save_model(str(folder))
        trainer.accelerator.wait_for_everyone()
        if trainer.accelerator.is_main_process:
            publish(folder, save_to, base)
    except Exception as error:
        if found := disk_full_error(save_to, error):
            raise found from error
        raise
    trainer.accelerator.wait_for_everyone()
