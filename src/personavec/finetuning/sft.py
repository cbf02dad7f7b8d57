"""TRL's SFTTrainer as this package uses it: rows as ids, a loss of its own on processors, drift.

Imports trl, and is imported only where something is trained.
"""

from __future__ import annotations

import inspect
import json
import math
import shutil
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from personavec.errors import ActivationError, DataError, UsageError
from personavec.finetuning.training import Example, Setup, Trained, TrainingConfig, collate
from personavec.model.adapters import take_off
from personavec.model.loading import LoadedModel
from personavec.model.training_hooks import IGNORED, TrainingHooks
from personavec.plain import parse_json
from personavec.progress import Bar
from personavec.runs import atomic_write, disk_full_error

#: Written into a checkpoint when all of it is there: what its files hold.
COMPLETE = "complete.json"


@runtime_checkable
class Addition(Protocol):
    """A term that is added to the loss of every forward."""

    needs_logits: bool

    def attach(self, model: Any) -> None:
        """Called with the model as it is trained, before the first step."""
        ...

    def detach(self) -> None:
        """Called when training is over, whatever happened."""
        ...

    def __call__(self, model: Any, inputs: Mapping[str, Tensor], logits: Tensor | None) -> Tensor:
        """The term's sum over the response tokens of one forward.

        `logits` are those at `kept_columns(inputs["labels"])`, where they are needed.
        """
        ...


@runtime_checkable
class Reader(Protocol):
    """What is read of the model every so many steps."""

    every: int

    def read(self, model: Any, step: int, loss: float | None) -> tuple[dict[str, float], bool]:
        """Numbers for the log, and whether to stop here without keeping this step."""
        ...


def kept_columns(labels: Tensor) -> Tensor:
    """The positions whose logits choose a response token in any row of a batch."""
    return (labels[:, 1:] != IGNORED).any(0).nonzero().squeeze(-1)


class Trainer(SFTTrainer):
    """SFTTrainer on examples with `input_ids` and `labels`.

    On a processor the vocabulary's logits are computed where they count only, in place of TRL's
    loss, which computes all of them there. A loss that is not finite ends the run at once.
    """

    def __init__(
        self,
        *args: Any,
        addition: Addition | None = None,
        reader: Reader | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._addition, self._reader = addition, reader
        self._added: list[float] = []
        parameters = inspect.signature(self._base().forward).parameters
        self._takes_kept = "logits_to_keep" in parameters

    def _base(self) -> Any:
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if isinstance(model, PeftModel) else model

    def _send_telemetry(self) -> None:
        """Nobody is told who finetunes what."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The card is written with the model, see `cards`."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        addition = self._addition
        needs_logits = addition is not None and addition.needs_logits
        logits = None
        given = {name: inputs[name] for name in ("input_ids", "attention_mask", "labels")}
        if needs_logits or (self._takes_kept and given["input_ids"].device.type == "cpu"):
            loss, logits = self._loss(model, given, num_items_in_batch)
        else:
            loss = super().compute_loss(model, dict(given), False, num_items_in_batch)
        if addition is not None:
            items = num_items_in_batch
            if items is None:
                items = (given["labels"][:, 1:] != IGNORED).sum()
            more = addition(self.accelerator.unwrap_model(model), inputs, logits) / items
            more = more * self._processes(num_items_in_batch)
            self._added.append(float(more.detach()))
            loss = loss + more
        if not torch.isfinite(loss):
            raise ActivationError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; lower the "
                "learning rate, or train in float32; what was trained up to the last checkpoint "
                f"is kept in {self.args.output_dir}"
            )
        return loss

    def _loss(self, model: Any, given: dict[str, Tensor], items: Any) -> tuple[Tensor, Tensor]:
        labels = given["labels"]
        kept = kept_columns(labels) if self._takes_kept else torch.arange(labels.shape[1] - 1)
        kept = kept.to(labels.device)
        cut = {"logits_to_keep": kept} if self._takes_kept else {}
        # The labels are for hooks that ask where responses are; the loss is made below.
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
        """What a sum over all processes' items is multiplied by, as gradients are averaged."""
        averaged = items is not None and self.args.average_tokens_across_devices
        return self.accelerator.num_processes if averaged else 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        step = self.state.global_step
        if "loss" not in logs:  # the summary at the end
            return super().log(logs, start_time)
        if self._added:
            logs["added_loss"] = sum(self._added)
            self._added.clear()
        stop = False
        reader = self._reader
        if reader is not None and (step % reader.every == 0 or step == self.state.max_steps):
            found, stop = reader.read(self.model, step, logs["loss"])
            logs.update(found)
        super().log(logs, start_time)
        if stop:
            # This step is beyond the line: what was saved before it is the last good one.
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
            atomic_write(folder / COMPLETE, json.dumps(_contents(folder)))
        self.accelerator.wait_for_everyone()


class Begin(TrainerCallback):
    """Attaches what reads, takes the first reading, and counts steps on a bar."""

    def __init__(self, setup: Setup, reading: TrainingHooks | None, bar: Bar) -> None:
        self._setup, self._reading, self._bar, self._counted = setup, reading, bar, 0

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        if self._reading is not None:
            self._reading.attach(model)
        if self._setup.addition is not None:
            self._setup.addition.attach(model)
        if self._setup.drift is not None:
            self._setup.drift.begin(model, state.global_step)
        self._count(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._count(state.global_step)

    def _count(self, step: int) -> None:
        self._bar.advance(step - self._counted)
        self._counted = step


def _contents(checkpoint: Path) -> dict[str, list[int]]:
    """The size and the checksum of every file of a checkpoint."""
    found: dict[str, list[int]] = {}
    for path in sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != COMPLETE):
        checksum = 0
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                checksum = zlib.crc32(block, checksum)
        found[str(path.relative_to(checkpoint))] = [path.stat().st_size, checksum]
    return found


def _is_whole(checkpoint: Path) -> bool:
    """Whether all of a checkpoint was written, and is still what was written."""
    try:
        return parse_json((checkpoint / COMPLETE).read_bytes()) == _contents(checkpoint)
    except (OSError, ValueError):
        return False


def last_checkpoint(folder: Path, *, before: int | None = None) -> Path | None:
    """The newest checkpoint that is whole; torn and damaged ones are removed.

    With `before`, of those of earlier steps.
    """
    steps = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")}
    found = sorted(
        (
            path
            for path, step in steps.items()
            if step.isdecimal() and (before is None or int(step) < before)
        ),
        key=lambda path: int(steps[path]),
    )
    for path in reversed(found):
        if _is_whole(path):
            return path
        if PartialState().is_main_process:
            shutil.rmtree(path, ignore_errors=True)
    return None


@contextmanager
def trainable(loaded: LoadedModel, config: TrainingConfig) -> Iterator[Any]:
    """The model to train: with a fresh LoRA adapter, seeded, or itself with `full`.

    Afterwards an adapter is gone again, and hooks and settings of training with it; what a full
    training changed stays. Raises UsageError for full training in less than float32, where small
    updates would be lost, and for a model that has an adapter already.
    """
    model = loaded.model
    if isinstance(model, PeftModel):
        raise UsageError(
            f"{loaded.identity.name} is an adapter already; merge it into its base model first"
        )
    torch.manual_seed(config.seed)
    forward = vars(model).get("forward")
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    if config.full:
        if model.get_input_embeddings().weight.dtype != torch.float32:
            raise UsageError("full finetuning needs float32 weights: load with --dtype float32")
        wrapped = model
    else:
        wrapped = get_peft_model(model, _lora(config))
    try:
        yield wrapped
    finally:
        if config.gradient_checkpointing:
            model.gradient_checkpointing_disable()
        if isinstance(wrapped, PeftModel):
            take_off(wrapped)
            for name, weight in model.named_parameters():
                weight.requires_grad_(name in trained)
        # TRL has put a forward of its own in place.
        vars(model).pop("forward", None)
        if forward is not None:
            model.forward = forward
        model.eval()


def _lora(config: TrainingConfig) -> LoraConfig:
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=True,
        # Every linear layer of the blocks, as in the paper; the output head is left out.
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def train(
    loaded: LoadedModel,
    examples: Sequence[Example],
    folder: Path,
    config: TrainingConfig,
    setup: Setup,
    save_to: Path | None,
) -> Trained:
    """See `training.train`."""
    if not examples:
        raise DataError("there is no text to train on")
    with trainable(loaded, config) as model:
        steps = _steps(len(examples), config, setup)
        bar = setup.progress.bar(setup.label, steps)
        with bar as counting, warnings.catch_warnings(), ExitStack() as stack:
            # Names that these packages have changed among themselves.
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl")
            reading = None
            if setup.pull is not None:
                reading = TrainingHooks(setup.pull.layers, setup.pull.act)
                stack.callback(reading.detach)
            for acting in setup.acting:
                stack.callback(acting.detach)
            if setup.addition is not None:
                stack.callback(setup.addition.detach)
            trainer = Trainer(
                model=model,
                args=_arguments(loaded, folder, config, setup, steps),
                train_dataset=_dataset(examples, setup),
                data_collator=collate,
                processing_class=loaded.tokenizer,
                callbacks=[*setup.acting, Begin(setup, reading, counting)],
                addition=setup.addition,
                reader=setup.drift,
            )
            # It prints on stdout, which is kept for results.
            trainer.remove_callback(PrinterCallback)
            # From one of the last step the trainer would take a step too many.
            checkpoint = last_checkpoint(folder, before=steps)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            stopped = setup.drift is not None and setup.drift.stopped is not None
            saved = save_to
            if save_to is not None and stopped:
                saved = _keep_checkpoint(last_checkpoint(folder), save_to, loaded)
            elif save_to is not None:
                _save(trainer, save_to, loaded)
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Trained(
        steps=trainer.state.global_step,
        losses=tuple(entry["loss"] for entry in history),
        added=tuple(entry["added_loss"] for entry in history if "added_loss" in entry),
        stopped=stopped,
        saved=saved,
    )


def _steps(n: int, config: TrainingConfig, setup: Setup) -> int:
    """How many steps a run takes, for the bar."""
    if setup.max_steps > 0:
        return setup.max_steps
    forwards = math.ceil(n / (config.batch * PartialState().num_processes))
    return math.ceil(config.epochs * math.ceil(forwards / config.accumulation))


def _arguments(
    loaded: LoadedModel, folder: Path, config: TrainingConfig, setup: Setup, steps: int
) -> SFTConfig:
    dtype = loaded.model.get_input_embeddings().weight.dtype
    device = loaded.device.type
    # Weights in float32 are kept for their precision; products of them are made in bfloat16
    # where the hardware has it. Weights in bfloat16 need no autocast.
    mixed = config.mixed_precision and dtype == torch.float32
    return SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=config.accumulation,
        gradient_checkpointing=config.gradient_checkpointing,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        # A short run is not spent on warming up.
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


def _dataset(examples: Sequence[Example], setup: Setup) -> Dataset:
    columns: dict[str, list[Any]] = {
        "input_ids": [list(example.input_ids) for example in examples],
        "labels": [list(example.labels) for example in examples],
    }
    if setup.per_token:
        columns["base_projection"] = list(setup.per_token)
    return Dataset.from_dict(columns)


def _save(trainer: Trainer, save_to: Path, loaded: LoadedModel) -> None:
    """Write what was trained aside and rename it: who finds the folder finds all of it."""
    aside = save_to.with_name(f".{save_to.name}.tmp")
    try:
        if trainer.accelerator.is_main_process:
            shutil.rmtree(aside, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        trainer.save_model(str(aside))
        trainer.accelerator.wait_for_everyone()
        if trainer.accelerator.is_main_process:
            _finish(aside, save_to, loaded)
    except Exception as error:
        if found := disk_full_error(save_to, error):
            raise found from error
        raise
    trainer.accelerator.wait_for_everyone()


#: What a checkpoint holds of the trainer, not of the model.
_STATE = ("optimizer*", "scheduler*", "rng_state*", "trainer_state*", "training_args*", COMPLETE)


def _keep_checkpoint(checkpoint: Path | None, save_to: Path, loaded: LoadedModel) -> Path | None:
    if checkpoint is None:
        return None
    if PartialState().is_main_process:
        aside = save_to.with_name(f".{save_to.name}.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(checkpoint, aside, ignore=shutil.ignore_patterns(*_STATE))
        _finish(aside, save_to, loaded)
    PartialState().wait_for_everyone()
    return save_to


def _finish(aside: Path, save_to: Path, loaded: LoadedModel) -> None:
    for name in ("training_args.bin", "README.md"):
        (aside / name).unlink(missing_ok=True)
    config = aside / "adapter_config.json"
    if config.exists():
        # The name under which this package loads the base, not where its files lie.
        found = json.loads(config.read_text("utf-8"))
        found["base_model_name_or_path"] = loaded.identity.name
        config.write_text(json.dumps(found, indent=2, sort_keys=True), "utf-8")
    shutil.rmtree(save_to, ignore_errors=True)
    aside.rename(save_to)
