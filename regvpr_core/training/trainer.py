"""Training: places in batches, descriptors, multi-similarity loss, AdamW; recall at each epoch."""

from collections.abc import Sequence
import contextlib
import math
import os
from pathlib import Path
import time
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from regvpr_core.config import to_mapping
from regvpr_core.datasets.dataset import Dataset
from regvpr_core.datasets.place_set import PlaceSet
from regvpr_core.errors import TrainingError
from regvpr_core.models.backbones import BackboneWeights
from regvpr_core.models.descriptor_model import DescriptorModel
from regvpr_core.models.encoder import choose_device
from regvpr_core.training.batches import Batch, Batches
from regvpr_core.training.config import TrainConfig
from regvpr_core.training.data_sets import training_set, validation_sets
from regvpr_core.training.head_start import start_head
from regvpr_core.training.interrupts import Interrupts, Stopped
from regvpr_core.training.losses import PlaceLoss
from regvpr_core.training.networks import build_model
from regvpr_core.training.optimiser import adamw, named_trainable, rate_factor, set_rates
from regvpr_core.training.processes import joined_processes, Processes
from regvpr_core.training.randomness import generator, step_seed
from regvpr_core.training.record import checkpoint_record, run_record
from regvpr_core.training.run_folder import RunFolder, saving, write_whole
from regvpr_core.training.run_state import check_same_run, Progress, Trained
from regvpr_core.training.sources import open_source, Source, SourceParts
from regvpr_core.training.teacher import Lesson, open_teacher
from regvpr_core.training.validation import Validation

LOG_STEPS = 10
"""Number of steps whose mean loss is one point of the curve."""

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


class Watch(Protocol):
    """Interface of watchers, which are called during a run."""

    def begin(self, facts: dict[str, Any]) -> None:
        """Start of a run: model, data and number of steps."""

    def reading(self, what: str, done: int, total: int) -> None:
        """Progress of work other than steps."""

    def step(self, step: int, steps: int, loss: float, rate: float) -> None:
        """A step is done."""

    def recall(self, step: int, recalls: dict[str, dict[int, float]]) -> None:
        """Validation is done."""


def train(config: TrainConfig, folder: Path, watch: Watch, *, resume: bool = False) -> Progress:
    """Train, or resume a run; checkpoints, state and record are written to the folder.

    Raises:
        TrainingError: unusable data, folder or loss.
        CheckpointError: weights are missing or of another architecture.
        Stopped: after an interrupt; the state is saved.
    """
    device = process_device(config.device)
    with joined_processes(device) as processes, Interrupts() as interrupts:
        places = training_set(config)
        datasets = validation_sets(config)
        model, backbone = build_model(config)
        files = RunFolder(folder)
        run = Run(config, files, watch, processes, interrupts, device, model, backbone, places,
                  datasets)
        run.open(resume)
        try:
            run.train()
        except BaseException:
            run.write_record('stopped')
            raise
        run.write_record('finished')
        return run.progress


class Run:
    """A run: its state, and the training step."""

    def __init__(
        self, config: TrainConfig, files: RunFolder, watch: Watch, processes: Processes,
        interrupts: Interrupts, device: torch.device, model: DescriptorModel,
        backbone: BackboneWeights, places: PlaceSet, datasets: Sequence[Dataset],
    ) -> None:
        self.config, self.files, self.watch = config, files, watch
        self.processes, self.interrupts, self.device = processes, interrupts, device
        self.model, self.backbone = model.to(device), backbone
        self.validations = [Validation(dataset) for dataset in datasets]
        self.precision = chosen_precision(config.precision, device)
        named = named_trainable(model)
        self.parameters = {key: p for group in named.values() for key, p in group.items()}
        self.optimiser = adamw(named, config.optimiser)
        self.loss = PlaceLoss(config.loss)
        scaler = torch.amp.GradScaler(device.type, enabled=self.precision == 'fp16')
        buffers = dict(model.named_buffers())
        self.trained = Trained(self.parameters, buffers, self.optimiser, scaler)
        self.places, self.datasets = places, datasets
        self.digest = places.digest()
        self.progress = Progress()
        self.source: Source
        self.lesson: Lesson
        self.batches: Batches
        self.steps = 0

    def open(self, resume: bool) -> None:
        """Restore the state or create the folder, then open the data."""
        check_shares(self.config, self.processes)
        if resume:
            tensors, about = self.files.read_state()
            check_same_run(about, self.config, self.digest, str(self.files.state))
            self.progress = self.trained.restore(tensors, about, str(self.files.state))
        elif self.processes.first:
            self.files.begin(to_mapping(self.config))
        self.processes.wait()
        self.lesson, self.places = open_teacher(
            self.config.distil, self.places, self.files.path / 'teacher', self.device,
            self.processes, self.told)
        self.source = open_source(SourceParts(
            config=self.config, folder=self.files.path, model=self.model, backbone=self.backbone,
            places=self.places, validation=self.datasets, device=self.device,
            processes=self.processes, told=self.told))
        self.batches = Batches(self.source.places, self.config.batch, self.config.seed,
                               self.source.copies, self.processes.count)
        if self.config.head_start is not None and not resume:
            start_head(self.config, self.config.head_start, self.model, self.source)
            self.processes.share_tensors([p.data for p in self.parameters.values()])
        every = self.batches.steps
        self.steps = min(self.config.steps or every * self.config.epochs,
                         every * self.config.epochs)
        if self.processes.first:
            self.watch.begin(self.facts())
            self.write_record('running')

    def train(self) -> None:
        """Train the remaining epochs."""
        every = self.batches.steps
        while True:
            if self.validation_is_due():  # a resumed run
                self.validate()
            if self.progress.step >= self.steps:
                return
            epoch, done = divmod(self.progress.step, every)
            rest = self.batches.epoch(epoch)[done:][: self.steps - self.progress.step]
            share = [batch.share(self.processes.rank, self.processes.count) for batch in rest]
            for batch, read in self.source.batches(share):
                start = time.monotonic()
                self.step(batch, read)
                self.progress.seconds += time.monotonic() - start
                asked = self.processes.agree(self.interrupts.asked, self.device)
                last = self.progress.step % every == 0 or self.progress.step >= self.steps
                if asked or last or self.progress.step % self.config.save_steps == 0:
                    self.save()
                if asked:
                    raise Stopped(f'stopped at step {self.progress.step} of {self.steps}; saved')
                if self.validation_is_due():
                    self.validate()

    def step(self, batch: Batch, read: Tensor) -> None:
        """One batch: descriptors of all processes, loss, gradients, one step of AdamW."""
        step, rank = self.progress.step, self.processes.rank
        factor = rate_factor(self.config.schedule, step, self.steps)
        set_rates(self.optimiser, factor)
        # Dropout depends only on seed, step and process.
        torch.manual_seed(step_seed(self.config.seed, step, rank, 1))
        self.model.train()
        inputs = self.source.inputs(read, generator(self.config.seed, step, rank, 2))
        with self.autocast():
            rows = self.source.network(inputs)
        everyone = self.processes.gathered(rows)
        labels, images = (self.processes.gathered_labels(torch.as_tensor(x, device=self.device))
                          for x in (batch.places, batch.images))
        loss = self.loss(everyone, labels) + self.lesson(everyone, images)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self.broken(value, batch, factor)
        scaler = self.trained.scaler
        self.optimiser.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        self.processes.sum_gradients(list(self.parameters.values()))
        if self.config.optimiser.clip_norm:
            scaler.unscale_(self.optimiser)
            torch.nn.utils.clip_grad_norm_(self.parameters.values(),
                                           self.config.optimiser.clip_norm)
        scaler.step(self.optimiser)
        scaler.update()
        self.progress.step = step + 1
        self.note(value, factor)

    def note(self, loss: float, factor: float) -> None:
        """Add the loss to the curve, and notify the watcher."""
        pending = self.progress.pending
        pending.append(loss)
        step, rate = self.progress.step, self.config.optimiser.lr * factor
        if step % LOG_STEPS == 0 or step == self.steps:
            self.progress.curve.append({'step': step, 'lr': rate,
                                        'loss': round(float(np.mean(pending)), 6)})
            pending.clear()
        if self.processes.first:
            self.watch.step(step, self.steps, loss, rate)

    def validation_is_due(self) -> bool:
        """Validate at the end of the run and at the configured steps or epochs, once per step."""
        step = self.progress.step
        every = self.config.validate_steps or self.batches.steps * self.config.validate_epochs
        due = step >= self.steps or (step > 0 and step % every == 0)
        return due and bool(self.validations) and not any(
            point['step'] == step and 'recall' in point for point in self.progress.curve)

    @torch.no_grad()
    def validate(self) -> None:
        """Measure recall on each set in the first process; store the best mean recall@1."""
        if self.processes.first:
            self.model.eval()
            recalls = {validation.dataset.title: validation.recalls(
                lambda chosen, number=number: self.describe(number, chosen))  # type: ignore[misc]
                for number, validation in enumerate(self.validations)}
            self.watch.recall(self.progress.step, recalls)
            self.progress.curve.append({
                'step': self.progress.step,
                'recall': {name: {str(k): round(share, 6) for k, share in of_set.items()}
                           for name, of_set in recalls.items()}})
            mean = float(np.mean([of_set[1] for of_set in recalls.values()]))
            if mean > self.progress.best:
                self.progress.best, self.progress.best_step = mean, self.progress.step
                self.write_checkpoint(self.files.best)
            self.write_state()
        else:
            self.progress.curve.append({'step': self.progress.step, 'recall': {}})
        self.processes.wait()

    def describe(self, number: int, chosen: Sequence[int]) -> np.ndarray[Any, Any]:
        """Descriptors (N, D) of images of a validation set."""
        parts = []
        for inputs in self.source.validation_inputs(number, chosen, self.config.validate_batch):
            with self.autocast():
                parts.append(self.source.network(inputs).float().cpu().numpy())
            self.told('validation', sum(map(len, parts)), len(chosen))
        return np.concatenate(parts)

    def save(self) -> None:
        """Save state, last checkpoint and record.

        Raises:
            TrainingError: a weight is not finite; the previous files are kept.
        """
        for key, parameter in self.parameters.items():
            if not bool(parameter.isfinite().all()):
                raise TrainingError(f'{key} is not finite after step {self.progress.step} '
                                    f'(learning rate {self.optimiser.param_groups[0]["lr"]:.3g}); '
                                    f'the save before it is kept. Lower optimiser.lr or set '
                                    f'optimiser.clip_norm, and go on with --resume')
        self.processes.share_tensors(list(self.trained.buffers.values()))
        if self.processes.first:
            self.write_checkpoint(self.files.last)
            self.write_state()
            self.write_record('running')
        self.processes.wait()

    def write_state(self) -> None:
        """Save the state for resuming."""
        self.files.write_state(self.trained.tensors(), self.trained.about(
            self.config, self.digest, self.progress))

    def write_checkpoint(self, path: Path) -> None:
        """Save a checkpoint."""
        self.files.write_checkpoint(path, self.model, self.config.name, self.backbone,
                                    checkpoint_record(self.record('running')))

    def record(self, status: str) -> dict[str, Any]:
        """The JSON record."""
        return run_record(
            status=status, config=self.config, places=self.source.places, digest=self.digest,
            datasets=self.datasets, backbone=self.backbone, device=self.device,
            precision=self.precision, processes=self.processes.count, steps=self.steps,
            progress=self.progress, unreadable=self.source.unreadable)

    def write_record(self, status: str) -> None:
        """Replace RUN/record.json."""
        if self.processes.first:
            self.files.write_record(self.record(status))

    def facts(self) -> dict[str, Any]:
        """Summary of the run in numbers."""
        groups = {group['name']: sum(p.numel() for p in group['params'])
                  for group in self.optimiser.param_groups}
        return {'places': len(self.source.places.members), 'dropped': self.source.places.dropped,
                'pictures': len(self.source.places.paths), 'copies': self.source.copies,
                'steps': self.steps, 'epoch_steps': self.batches.steps,
                'device': str(self.device), 'precision': self.precision,
                'processes': self.processes.count, 'trained': groups,
                'from_step': self.progress.step}

    def told(self, what: str, done: int, total: int) -> None:
        """Report the progress of other work, and stop it after an interrupt."""
        if self.processes.first:
            self.watch.reading(what, done, total)
        if self.interrupts.asked and self.processes.count == 1:
            raise Stopped(f'stopped during {what}; what was done is kept')

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The autocast context of the network; transport, norms and loss are always float32."""
        return torch.autocast(self.device.type, DTYPES[self.precision],
                              enabled=self.precision != 'fp32')

    def broken(self, value: float, batch: Batch, factor: float) -> TrainingError:
        """Message for a non-finite loss; the batch's images are listed in a file."""
        names = [self.source.places.names[i] for i in batch.images]
        listed = self.files.path / f'broken_batch_{self.processes.rank}.txt'
        with saving(listed):
            write_whole(listed, ('\n'.join(names) + '\n').encode())
        return TrainingError(
            f'the loss is {value} at step {self.progress.step} (learning rate '
            f'{self.config.optimiser.lr * factor:.3g}); images: {", ".join(names[:3])} and '
            f'{len(names) - 3} more, listed in {listed}. Lower optimiser.lr, set '
            f'optimiser.clip_norm, or use precision fp32')


def check_shares(config: TrainConfig, processes: Processes) -> None:
    """Refuse a batch that cannot be shared evenly.

    Raises:
        TrainingError: the message has both numbers.
    """
    if config.batch.places % processes.count:
        raise TrainingError(f'batch.places is {config.batch.places}, which {processes.count} '
                            f'processes cannot share evenly')


def process_device(name: str) -> torch.device:
    """The device of this process; with several on one host, the GPU of its local rank."""
    device = choose_device(name)
    if device.type == 'cuda' and ':' not in name:
        device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', '0')))
        torch.cuda.set_device(device)
    return device


def chosen_precision(precision: str, device: torch.device) -> str:
    """`auto`: bf16 on CUDA if native, else fp16; fp32 on other devices."""
    if precision != 'auto':
        return precision
    if device.type != 'cuda':
        return 'fp32'
    return 'bf16' if torch.cuda.is_bf16_supported(including_emulation=False) else 'fp16'
