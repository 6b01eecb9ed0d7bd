"""RegVPR's aggregation against the textbook form that materialises (B, l, m, n).

Batch 60, fp32, 224 pixels (n = 256). Textbook: features and plan are each repeated to
(B, l, m, n), multiplied and summed, as SALAD is published. Both forms have the same projections,
Sinkhorn iterations and encoder; `speedup` and `memory_ratio` count them in both, and
`speedup_behind_projections` in neither.
"""

import json
from pathlib import Path
import subprocess
import sys

import torch
from torch import nn, Tensor

from benchmarks.report import median_seconds, Metric, ROOT, write
from regvpr_core.models.register_aggregator import RegisterAggregator, RegisterConfig
from regvpr_core.models.salad import patch_rows, scene_descriptor, transport_sum

BATCH, WIDTH, GRID = 60, 768, (16, 16)


class TextbookAggregator(nn.Module):
    """The same weights, the transport's sum written with (B, l, m, n) tensors."""

    def __init__(self, regvpr: RegisterAggregator) -> None:
        super().__init__()
        self.regvpr = regvpr

    def forward(self, class_token: Tensor, patch_tokens: Tensor) -> Tensor:
        """(B, width) and (B, width, h, w) to (B, 8448)."""
        regvpr = self.regvpr
        plan, sequence = regvpr.local_descriptors(patch_rows(patch_tokens, torch.float32))
        for layer in regvpr.encoder:
            sequence = layer(sequence)
        kept = sequence[:, : plan.shape[2]]
        return scene_descriptor(regvpr.token_features(class_token), textbook_sum(kept, plan))


def textbook_sum(features: Tensor, plan: Tensor) -> Tensor:
    """Features (B, n, l) and plan (B, m, n) to clusters (B, l, m), the long way."""
    plan = plan.unsqueeze(1).repeat(1, features.shape[2], 1, 1)  # (B, l, m, n)
    spread = features.transpose(1, 2).unsqueeze(2).repeat(1, 1, plan.shape[2], 1)
    return (spread * plan).sum(dim=3)


def setting() -> tuple[RegisterAggregator, Tensor, Tensor]:
    """An aggregator with random weights, and tokens laid out as the backbone gives them."""
    torch.manual_seed(0)
    regvpr = RegisterAggregator(WIDTH, RegisterConfig()).eval()
    tokens = torch.randn(BATCH, 1 + GRID[0] * GRID[1], WIDTH)
    return regvpr, tokens[:, 0], tokens[:, 1:].transpose(1, 2).reshape(BATCH, WIDTH, *GRID)


def peak_mb(form: str) -> float:
    """Memory that one pass adds to a fresh process, by the peak of its resident set."""
    run = subprocess.run([sys.executable, '-m', 'benchmarks.aggregation', '--peak', form],
                         cwd=ROOT, capture_output=True, text=True, check=True)
    return float(json.loads(run.stdout)['mb'])


def print_peak(form: str) -> None:
    """The child process of `peak_mb`: weights, tokens and libraries are there before it counts."""
    regvpr, class_token, patch_tokens = setting()
    model = regvpr if form == 'regvpr' else TextbookAggregator(regvpr)
    with torch.inference_mode():
        model(class_token[:1], patch_tokens[:1])
        # `ru_maxrss` would not do: a child inherits its parent's peak.
        Path('/proc/self/clear_refs').write_text('5', encoding='ascii')  # peak = now
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
    regvpr, class_token, patch_tokens = setting()
    textbook = TextbookAggregator(regvpr)
    with torch.inference_mode():
        difference = (regvpr(class_token, patch_tokens)
                      - textbook(class_token, patch_tokens)).abs().max().item()
        ours_s, textbook_s = median_seconds(
            lambda: regvpr(class_token, patch_tokens), lambda: textbook(class_token, patch_tokens))
        plan, sequence = regvpr.local_descriptors(patch_rows(patch_tokens, torch.float32))
        kept, scene = sequence[:, : plan.shape[2]], regvpr.token_features(class_token)
        ours_sum_s, textbook_sum_s = median_seconds(
            lambda: scene_descriptor(scene, transport_sum(kept, plan)),
            lambda: scene_descriptor(scene, textbook_sum(kept, plan)))
    ours_mb, textbook_mb = peak_mb('regvpr'), peak_mb('textbook')
    whole = 'tokens to 8448 numbers; projections, Sinkhorn and encoder counted in both forms'
    behind = 'local descriptors and transport plan to 8448 numbers; what both share in neither'
    path = write('aggregation', [
        Metric(metric='speedup', value=textbook_s / ours_s, unit='x', target=5.0, scope=whole),
        Metric(metric='speedup_behind_projections', value=textbook_sum_s / ours_sum_s, unit='x',
               target=5.0, scope=behind),
        Metric(metric='memory_ratio', value=textbook_mb / ours_mb, unit='x', target=5.0,
               scope=f'{whole}; growth of the peak resident set in a fresh process'),
        Metric(metric='max_abs_difference', value=difference, unit='', target=1e-5,
               higher_is_better=False, scope='of the descriptors'),
        Metric(metric='regvpr_ms', value=1e3 * ours_s, unit='ms', higher_is_better=False,
               scope=whole),
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
