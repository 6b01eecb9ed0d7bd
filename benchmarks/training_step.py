"""A training step with 12 adapted blocks against one that fine-tunes the last 4 of the backbone.

Both use ViT-B/14, 224 pixels, multi-similarity loss, AdamW and the same batch. `salad` trains the
SALAD head, the last 4 blocks and the final LayerNorm. `regvpr` is the paper's model: adapters in
all 12 blocks and the register head. Time is measured at a small batch on this machine. Memory is
computed, not measured: the bytes that autograd stores for the backward pass of one and of two
images are extrapolated to 240, and weights, gradients and moments are added. Shared storage counts
once. Workspaces of libraries and temporary memory of the backward pass are not included, so this
does not replace a measurement on a GPU.
"""

import os
import sys
from unittest import mock

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from benchmarks.report import median_seconds, Metric, write
from regvpr_core.config import find_settings, from_mapping, read_yaml
from regvpr_core.models import vit
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.training.config import LossConfig, OptimiserConfig
from regvpr_core.training.losses import PlaceLoss
from regvpr_core.training.optimiser import adamw, named_trainable
from regvpr_core.training.recompute import recompute

FULL = os.environ.get('FULL') == '1'
BATCH = 16 if FULL else 4
REPEATS = 5
PICTURES = 240
COUNTED = (1, 2)
GIB = 2**30


class Step:
    """A model and one training step of it."""

    def __init__(self, preset: str, recomputed: int = 0) -> None:
        torch.manual_seed(0)
        config = from_mapping(ModelConfig, read_yaml(find_settings('models', preset)))
        self.model = DescriptorModel(config).train()
        self.named = named_trainable(self.model)
        self.optimiser = adamw(self.named, OptimiserConfig())
        self.loss = PlaceLoss(LossConfig())
        recompute(self.model.backbone, recomputed)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """Forward pass, backward pass and AdamW, under bf16 autocast."""
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast('cpu', torch.bfloat16):
            rows = self.model(images)
        self.loss(rows, labels).backward()
        self.optimiser.step()

    def kept_bytes(self, images: Tensor) -> int:
        """Peak bytes of the backward pass: stored tensors, and those of one recomputed block."""
        weights = {value.untyped_storage().data_ptr()
                   for value in self.model.state_dict().values()}
        recomputed = [block for block in self.model.backbone.blocks if 'forward' in vars(block)]
        inputs: list[Tensor] = []
        handles = [block.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
                   for block in recomputed]
        kept = count(lambda: self.model(images), weights, inputs)
        for handle in handles:
            handle.remove()
        again = 0
        if recomputed:
            block: nn.Module = recomputed[-1]
            plain = type(block).forward
            x = inputs[-1].detach().requires_grad_()
            again = count(lambda: plain(block, x, (16, 16)), weights, [])
        return kept + again

    def memory_bytes(self, pictures: int) -> float:
        """Memory for a batch of this size, extrapolated linearly from two small batches."""
        few, more = (self.kept_bytes(torch.randn(count, 3, 224, 224)) for count in COUNTED)
        each = (more - few) / (COUNTED[1] - COUNTED[0])
        return few + each * (pictures - COUNTED[0]) + state_bytes(self)


def count(work, weights: set[int], extra: list[Tensor]) -> int:
    """Bytes of the storages that autograd keeps, without weights, and of the `extra` tensors."""
    storages: dict[int, tuple[int, Tensor]] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            # The tensor is kept, so that its address is not reused.
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    # As on a GPU, where attention does not store its weights.
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), \
            torch.autocast('cpu', torch.bfloat16), \
            mock.patch.object(vit, 'attended', F.scaled_dot_product_attention):
        result = work()
    for tensor in extra:
        note(tensor)
    del result
    return sum(size for size, _ in storages.values())


def state_bytes(step: Step) -> int:
    """Bytes of all weights, and of gradients and two moments of the trained ones, float32."""
    trained = sum(p.numel() for group in step.named.values() for p in group.values())
    return 4 * (sum(p.numel() for p in step.model.parameters()) + 3 * trained)


def main() -> None:
    """Measure the steps, count the memory, write the result file."""
    images, labels = torch.randn(BATCH, 3, 224, 224), torch.arange(BATCH) // 2
    salad, regvpr = Step('table2_last_4_salad'), Step('table2_adapter_regvpr')
    tight = Step('table2_adapter_regvpr', 12)
    seconds = median_seconds(*(lambda step=step: step(images, labels)
                               for step in (salad, regvpr, tight)), repeats=REPEATS)
    salad_s, regvpr_s, tight_s = (s / BATCH for s in seconds)
    timed = (f'a picture of a batch of {BATCH}, ViT-B/14, 224 pixels, bf16 autocast, forward, '
             f'backward and AdamW, on the CPU; base: last 4 blocks and SALAD')
    counted = (f'kept for the backward pass of {PICTURES} pictures, counted at {COUNTED[0]} and '
               f'{COUNTED[1]}, plus weights, gradients and moments; computed, not measured')
    metrics = [
        Metric(metric='step_time_ratio', value=regvpr_s / salad_s, unit='x', target=1.5,
               higher_is_better=False, scope=timed),
        Metric(metric='step_time_ratio_recomputed', value=tight_s / salad_s, unit='x',
               higher_is_better=False, scope=f'{timed}; all 12 blocks recomputed'),
        Metric(metric='salad_last_4_s', value=salad_s, unit='s', higher_is_better=False,
               scope=timed),
        Metric(metric='regvpr_adapters_s', value=regvpr_s, unit='s', higher_is_better=False,
               scope=timed),
    ]
    for name, step, target in (('salad_last_4', salad, None), ('regvpr_adapters', regvpr, None),
                               ('regvpr_adapters_recomputed', tight, 12.0)):
        metrics.append(Metric(metric=f'{name}_gib', value=step.memory_bytes(PICTURES) / GIB,
                              unit='GiB', target=target, higher_is_better=False, scope=counted))
    sys.stdout.write(write('training_step', metrics).read_text(encoding='utf-8'))


if __name__ == '__main__':
    main()
