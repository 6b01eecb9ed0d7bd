"""The encoder against the same network in plain fp32 eager torch: CPU, batch 1, random weights.

Median times from network input to descriptor, measured in alternation. The up projections of the
adapters are random too. At zero, their initial value in training, zeros and denormals might favour
one form. `over_bare` is the time divided by that of the backbone alone, without adapters and head,
in the same precision and form.

`avx2`: precision fp32 in a process whose oneDNN, torch and MKL are held to AVX2, as on a processor
without AVX512.
"""

import copy
import functools
import json
import os
import subprocess
import sys
from typing import Any

import torch
from torch import nn, Tensor

from benchmarks.report import median_seconds, Metric, ROOT, write
from regvpr_core.models.adapter import AdapterConfig
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.engines import bf16_is_faster, CpuEngine
from regvpr_core.models.preprocessing import Preprocessing

REPEATS = 40 if os.environ.get('FULL') else 15
CASES = (('vitb', 'vitb14', 224), ('vitb', 'vitb14', 322), ('vits', 'vits14', 224))
AVX2 = {'ONEDNN_MAX_CPU_ISA': 'AVX2', 'ATEN_CPU_CAPABILITY': 'avx2',
        'MKL_ENABLE_INSTRUCTIONS': 'AVX2'}


def random_model(backbone: str, side: int) -> DescriptorModel:
    """RegVPR with adapters in every block."""
    torch.manual_seed(0)
    model = DescriptorModel(ModelConfig(
        backbone=backbone, adapter=AdapterConfig(), aggregator='regvpr', train='adapter',
        preprocessing=Preprocessing(height=side, width=side)))
    for key, value in model.named_parameters():
        if key.endswith('adapter.up.weight'):
            nn.init.normal_(value, std=0.02)
    return model.eval().requires_grad_(False)


def bare_model(backbone: str, side: int) -> DescriptorModel:
    """The same backbone without adapters."""
    torch.manual_seed(0)
    return DescriptorModel(ModelConfig(
        backbone=backbone, adapter=None, aggregator='gem', train='frozen',
        preprocessing=Preprocessing(height=side, width=side))).eval().requires_grad_(False)


def measure(name: str, backbone: str, side: int, target: float) -> list[Metric]:
    """Both forms of one network at one size."""
    plain = random_model(backbone, side)
    engine = CpuEngine(copy.deepcopy(plain), 'auto', None)
    full = CpuEngine(copy.deepcopy(plain), 'fp32', None)
    backbone_alone = CpuEngine(bare_model(backbone, side), engine.precision, None)
    images = torch.randn(1, 3, side, side)

    def eager() -> Tensor:
        with torch.inference_mode():
            return plain(images)

    def bare() -> Any:
        with torch.inference_mode():
            return backbone_alone._model.backbone(images)

    plain_s, ours_s, full_s, bare_s = median_seconds(
        eager, lambda: engine(images), lambda: full(images), bare, repeats=REPEATS)
    cosine = float(engine(images)[0] @ eager()[0].numpy())
    scope = f'RegVPR {backbone} at {side}, batch 1, {engine.precision}, {engine.form}'
    case = f'cpu_{name}_{side}'
    return [
        Metric(metric=f'{case}_speedup', value=plain_s / ours_s, unit='x', target=target,
               scope=scope),
        Metric(metric=f'{case}_fp32_speedup', value=plain_s / full_s, unit='x', target=1.0,
               scope=f'the same with precision fp32, {full.form}'),
        Metric(metric=f'{case}_over_bare', value=ours_s / bare_s, unit='x', target=1.15,
               higher_is_better=False, scope=f'{scope}; over the backbone alone'),
        Metric(metric=f'{case}_cosine', value=cosine, unit='', target=0.999,
               scope='to plain fp32 eager torch'),
        Metric(metric=f'{case}_ms', value=1e3 * ours_s, unit='ms', higher_is_better=False,
               scope=scope),
        Metric(metric=f'{case}_plain_ms', value=1e3 * plain_s, unit='ms', higher_is_better=False,
               scope='plain fp32 eager torch'),
    ]


def with_avx2() -> list[Metric]:
    """Precision fp32 with AVX2 alone, measured in a process of its own."""
    run = subprocess.run([sys.executable, '-m', 'benchmarks.encoder', '--avx2'], cwd=ROOT,
                         env={**os.environ, **AVX2}, check=True, stdout=subprocess.PIPE, text=True)
    return [Metric(metric=f'cpu_{name}_avx2_fp32_speedup', value=plain_s / ours_s, unit='x',
                   target=1.3, scope=f'precision fp32 on AVX2 alone, {form}: '
                                     f'{1e3 * ours_s:.1f} against {1e3 * plain_s:.1f} ms')
            for name, form, plain_s, ours_s in json.loads(run.stdout.splitlines()[-1])]


def print_fp32() -> None:
    """Child process: print the times of plain fp32 and of the encoder as JSON."""
    found = []
    for name, backbone, side in CASES[::2]:
        plain = random_model(backbone, side)
        engine = CpuEngine(copy.deepcopy(plain), 'fp32', None)
        with torch.inference_mode():
            plain_s, ours_s = median_seconds(
                *(functools.partial(run, torch.randn(1, 3, side, side))
                  for run in (plain, engine)), repeats=REPEATS)
        found.append((f'{name}_{side}', str(engine.form), plain_s, ours_s))
    sys.stdout.write(json.dumps(found))


def main() -> None:
    """Measure all cases and write the result file."""
    target = 2.5 if bf16_is_faster(768) else 1.0
    metrics = [metric for case in CASES for metric in measure(*case, target)] + with_avx2()
    sys.stdout.write(write('encoder', metrics).read_text(encoding='utf-8'))


if __name__ == '__main__':
    if sys.argv[1:] == ['--avx2']:
        print_fp32()
    else:
        main()
