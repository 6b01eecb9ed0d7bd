"""RegVPR's aggregation against the textbook form that materialises (B, l, m, n).

Both turn tokens into 8448 numbers: batch 60, fp32, 224 pixels (n = 256). Ours is the head as the
CPU encoder runs it. The textbook form is written from the paper with torch's own modules and
SALAD's published code: 1x1 convolutions, Sinkhorn, `nn.TransformerEncoderLayer`; features and plan
are repeated to (B, l, m, n), multiplied and summed. Both compute the same large products (42
GFLOP), which limit `speedup`. `speedup_behind_encoder` counts only the steps after the encoder.
"""

import copy
import ctypes
import json
import math
from pathlib import Path
import subprocess
import sys
from typing import cast

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from benchmarks.report import median_seconds, Metric, ROOT, write
from regvpr_core.models.cpu.network import fused_head
from regvpr_core.models.engines import fastest_form
from regvpr_core.models.register_aggregator import RegisterAggregator, RegisterConfig
from regvpr_core.models.register_encoder import EncoderLayer
from regvpr_core.models.salad import patch_rows, scene_descriptor, transport_sum

BATCH, WIDTH, GRID, HEADS = 60, 768, (16, 16), 12


class TextbookAggregator(nn.Module):
    """Textbook form of a `RegisterAggregator` with the same weights; shares no code with it."""

    def __init__(self, regvpr: RegisterAggregator) -> None:
        super().__init__()
        self.token_features = regvpr.token_features
        self.cluster_features = convolutions(regvpr.cluster_features)
        self.score = convolutions(regvpr.score)
        self.registers = regvpr.registers
        self.encoder = nn.ModuleList(
            torch_layer(cast(EncoderLayer, layer)) for layer in regvpr.encoder)

    def forward(self, class_token: Tensor, patch_tokens: Tensor) -> Tensor:
        """(B, width) and (B, width, h, w) to (B, 8448)."""
        f = self.cluster_features(patch_tokens).flatten(2)  # (B, l, n)
        p = textbook_sinkhorn(self.score(patch_tokens).flatten(2))  # (B, m, n)
        t = self.token_features(class_token)
        n = f.shape[2]
        registers = self.registers.expand(len(f), -1, -1).transpose(1, 2).unsqueeze(3)
        registers = self.cluster_features(registers).flatten(2)  # (B, l, k)
        sequence = torch.cat([f, registers], dim=2).transpose(1, 2)
        for layer in self.encoder:
            sequence = layer(sequence)
        f = textbook_sum(sequence[:, :n], p)
        f = torch.cat([F.normalize(t, dim=-1), F.normalize(f, dim=1).flatten(1)], dim=-1)
        return F.normalize(f, dim=-1)


def convolutions(mlp: nn.Sequential) -> nn.Sequential:
    """The MLP of `salad.reduction` over maps, as SALAD publishes it."""
    layers: list[nn.Module] = []
    for part in mlp:
        if isinstance(part, nn.Linear):
            layer = nn.Conv2d(part.in_features, part.out_features, 1)
            layer.weight.data = part.weight.data[:, :, None, None].clone()
            layer.bias.data = part.bias.data.clone()  # type: ignore[union-attr]
            layers.append(layer)
        else:
            layers.append(nn.Dropout() if isinstance(part, nn.Dropout) else nn.ReLU())
    return nn.Sequential(*layers)


def torch_layer(layer: EncoderLayer) -> nn.TransformerEncoderLayer:
    """Torch's encoder layer with the weights of an `EncoderLayer`."""
    first, last = (part for part in layer.mlp if isinstance(part, nn.Linear))
    theirs = nn.TransformerEncoderLayer(
        layer.proj.in_features, layer.heads, first.out_features, activation='gelu',
        batch_first=True, norm_first=True)
    theirs.load_state_dict({
        'self_attn.in_proj_weight': layer.qkv.weight, 'self_attn.in_proj_bias': layer.qkv.bias,
        'self_attn.out_proj.weight': layer.proj.weight, 'self_attn.out_proj.bias': layer.proj.bias,
        'linear1.weight': first.weight, 'linear1.bias': first.bias,
        'linear2.weight': last.weight, 'linear2.bias': last.bias,
        'norm1.weight': layer.norm1.weight, 'norm1.bias': layer.norm1.bias,
        'norm2.weight': layer.norm2.weight, 'norm2.bias': layer.norm2.bias})
    return theirs


def textbook_sinkhorn(scores: Tensor, iterations: int = 3) -> Tensor:
    """Scores (B, m, n) to a plan whose columns sum to 1 and whose rows tend to n/m."""
    B, m, n = scores.shape
    u, v = torch.zeros(B, m), torch.zeros(B, n)
    for _ in range(iterations):
        u = math.log(n / m) - torch.logsumexp(scores + v.unsqueeze(1), dim=2)
        v = -torch.logsumexp(scores + u.unsqueeze(2), dim=1)
    return (scores + u.unsqueeze(2) + v.unsqueeze(1)).exp()


def textbook_sum(features: Tensor, plan: Tensor) -> Tensor:
    """Features (B, n, l) and plan (B, m, n) to clusters (B, l, m), through (B, l, m, n)."""
    plan = plan.unsqueeze(1).repeat(1, features.shape[2], 1, 1)  # (B, l, m, n)
    spread = features.transpose(1, 2).unsqueeze(2).repeat(1, 1, plan.shape[2], 1)
    return (spread * plan).sum(dim=3)


def setting() -> tuple[RegisterAggregator, nn.Module, Tensor, Tensor]:
    """An aggregator with random weights, its fastest form on this CPU, and class and patch tokens.

    The tokens have the memory layout of the backbone's output.
    """
    torch.manual_seed(0)
    regvpr = RegisterAggregator(WIDTH, RegisterConfig()).eval().requires_grad_(False)
    form = fastest_form(WIDTH, HEADS, ('fp32',), torch.get_num_threads())
    tokens = torch.randn(BATCH, 1 + GRID[0] * GRID[1], WIDTH)
    return (regvpr, fused_head(copy.deepcopy(regvpr), form), tokens[:, 0],
            tokens[:, 1:].transpose(1, 2).reshape(BATCH, WIDTH, *GRID))


def peak_mb(form: str) -> float:
    """Growth of the peak resident memory of a fresh process by one pass, MiB."""
    run = subprocess.run([sys.executable, '-m', 'benchmarks.aggregation', '--peak', form],
                         cwd=ROOT, capture_output=True, text=True, check=True)
    return float(json.loads(run.stdout)['mb'])


def print_peak(form: str) -> None:
    """Child process of `peak_mb`. Weights, tokens and libraries are loaded before it measures."""
    regvpr, ours, class_token, patch_tokens = setting()
    model = ours if form == 'regvpr' else TextbookAggregator(regvpr).eval()
    with torch.inference_mode():
        model(class_token[:1], patch_tokens[:1])
        ctypes.CDLL(None).malloc_trim(0)  # so that no freed memory is reused
        # `ru_maxrss` cannot be used, because a child process inherits the peak of its parent.
        Path('/proc/self/clear_refs').write_text('5', encoding='ascii')  # reset the peak
        before = status_kib('VmRSS')
        model(class_token, patch_tokens)
        after = status_kib('VmHWM')
    sys.stdout.write(json.dumps({'mb': (after - before) / 1024}))


def status_kib(field: str) -> int:
    """A figure in KiB of /proc/self/status: VmRSS (resident now), VmHWM (its peak)."""
    lines = Path('/proc/self/status').read_text(encoding='ascii').splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f'{field}:'))


def main() -> None:
    """Measure, check that both forms agree, write the result file."""
    regvpr, ours, class_token, patch_tokens = setting()
    textbook = TextbookAggregator(regvpr).eval()
    with torch.inference_mode():
        wanted = textbook(class_token, patch_tokens)
        difference = max((form(class_token, patch_tokens) - wanted).abs().max().item()
                         for form in (ours, regvpr))
        ours_s, plain_s, textbook_s = median_seconds(*(
            lambda form=form: form(class_token, patch_tokens)  # type: ignore[misc]
            for form in (ours, regvpr, textbook)))
        plan, sequence = regvpr.local_descriptors(patch_rows(patch_tokens, torch.float32))
        kept, scene = sequence[:, : plan.shape[2]], regvpr.token_features(class_token)
        ours_sum_s, textbook_sum_s = median_seconds(
            lambda: scene_descriptor(scene, transport_sum(kept, plan)),
            lambda: scene_descriptor(scene, textbook_sum(kept, plan)))
    ours_mb, textbook_mb = peak_mb('regvpr'), peak_mb('textbook')
    whole = 'tokens to 8448 numbers; projections, Sinkhorn and encoder counted in both forms'
    behind = 'encoded local descriptors and transport plan to 8448 numbers'
    path = write('aggregation', [
        Metric(metric='speedup', value=textbook_s / ours_s, unit='x', target=5.0, scope=whole),
        Metric(metric='speedup_behind_encoder', value=textbook_sum_s / ours_sum_s, unit='x',
               target=5.0, scope=behind),
        Metric(metric='memory_ratio', value=textbook_mb / ours_mb, unit='x', target=5.0,
               scope=f'{whole}; growth of the peak resident set in a fresh process'),
        Metric(metric='max_abs_difference', value=difference, unit='', target=1e-5,
               higher_is_better=False, scope='of the descriptors'),
        Metric(metric='regvpr_ms', value=1e3 * ours_s, unit='ms', higher_is_better=False,
               scope=whole),
        Metric(metric='module_speedup', value=textbook_s / plain_s, unit='x',
               scope=f'{whole}; ours as the plain module that is trained'),
        Metric(metric='textbook_ms', value=1e3 * textbook_s, unit='ms', higher_is_better=False,
               scope=whole),
        Metric(metric='regvpr_peak_mb', value=ours_mb, unit='MiB', higher_is_better=False,
               scope=whole),
        Metric(metric='textbook_peak_mb', value=textbook_mb, unit='MiB', higher_is_better=False,
               scope=whole),
    ])
    sys.stdout.write(path.read_text(encoding='utf-8'))


if __name__ == '__main__':
    if sys.argv[1:2] == ['--peak']:
        print_peak(sys.argv[2])
    else:
        main()
