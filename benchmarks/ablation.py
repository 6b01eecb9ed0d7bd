"""What registers, layers, readings and heads do, on the data at hand: small runs, several seeds.

    python -m benchmarks.ablation DATA TOKENS     folders: of docs/training.md; for kept tokens

Every row is the preset `offline_regvpr` with other settings of the head, or with the last
four of the eight blocks trained or adapted as well (tokens are kept of block 3 then), 40 steps,
windows of 9 x 9 patches, two seeds (FULL=1: 300 steps, 12 x 12, three). Measured on the validation
sets of that file, which these rows do not choose anything by. Writes build/bench/ablation.json
and the table in docs/paper.md. Tokens are computed once for each seed; runs that are there are not
run again.
"""

import json
import os
from pathlib import Path
import sys
from typing import Any

import numpy as np
import torch

from benchmarks.report import Metric, ROOT, write
from regvpr_core.training.config import TrainConfig
from regvpr_core.training.settings import read_train_config
from regvpr_core.training.trainer import train

FULL = os.environ.get('FULL') == '1'
STEPS, WINDOW, SEEDS = (300, 12, (1, 2, 3)) if FULL else (40, 9, (1, 2))
RUNS = ROOT / 'build' / 'bench' / 'ablation'
PAGE = ROOT / 'docs' / 'paper.md'
BEGIN, END = '<!-- ablation: written by benchmarks/ablation.py -->', '<!-- end -->'
PRESET = 'offline_regvpr'

HEAD = 'model.aggregator_config'
HEADS: dict[str, list[str]] = {
    'GeM and a linear layer': ['model.aggregator=cosplace', f'{HEAD}={{power: 1.0}}',
                               'head_start=null'],
    'SALAD': ['model.aggregator=salad', f'{HEAD}={{}}'],
    'registers': [],
}
BEHIND = 3
"""Block whose tokens are kept where later ones change."""

TRAINED: dict[str, list[str]] = {
    'last 4 trained': [f'tokens.block={BEHIND}', 'model.train=last_4',
                       'optimiser.lr_backbone=1e-4'],
    'last 4 adapted': [f'tokens.block={BEHIND}', 'model.train=adapter',
                       'model.adapter={blocks: last_4}', 'optimiser.lr_adapters=2e-3'],
}
ROWS: dict[str, list[str]] = {
    'registers 4, layers 2, reading A (the paper)': [],
    'registers 0': [f'{HEAD}={{encoder_dropout: 0.0, registers: 0}}'],
    'registers 1': [f'{HEAD}={{encoder_dropout: 0.0, registers: 1}}'],
    'registers 2': [f'{HEAD}={{encoder_dropout: 0.0, registers: 2}}'],
    'registers 8': [f'{HEAD}={{encoder_dropout: 0.0, registers: 8}}'],
    'layers 0 (no registers either: SALAD without dustbin)': [
        f'{HEAD}={{encoder_dropout: 0.0, registers: 0, layers: 0}}'],
    'layers 1': [f'{HEAD}={{encoder_dropout: 0.0, layers: 1}}'],
    'layers 3': [f'{HEAD}={{encoder_dropout: 0.0, layers: 3}}'],
    'reading B': [f'{HEAD}={{encoder_dropout: 0.0, join: clusters}}'],
    **{f'reading D, {what}': [
        f'tokens.block={BEHIND}', f'model.last_block={BEHIND}', 'model.aggregator=inside',
        f'{HEAD}={{{settings}}}', 'optimiser.lr_backbone=1e-4']
       for what, settings in {
           '8 registers kept, blocks frozen': 'registers: 8, train_blocks: false',
           '8 registers kept, blocks trained': 'registers: 8',
           '8 registers dropped, blocks trained': 'registers: 8, keep: false'}.items()},
    'SALAD': HEADS['SALAD'],
    'random start, as the paper': ['head_start=null'],
    'frozen: GeM and a linear layer': HEADS['GeM and a linear layer'],
    **{f'{trained}: {head}': [*changes, *more]
       for trained, more in TRAINED.items() for head, changes in HEADS.items()},
}


class Silent:
    """Watches nothing."""

    def begin(self, facts: dict[str, Any]) -> None:
        """Nothing."""

    def reading(self, what: str, done: int, total: int) -> None:
        """Nothing."""

    def step(self, step: int, steps: int, loss: float, rate: float) -> None:
        """Nothing."""

    def recall(self, step: int, recalls: dict[str, dict[int, float]]) -> None:
        """Nothing."""


def main(data: Path, tokens: Path) -> int:
    found: dict[str, dict[str, list[float]]] = {}
    for seed in SEEDS:
        for row, changes in ROWS.items():
            name = ''.join(c if c.isalnum() else '_' for c in row)
            of_block = f'block{BEHIND}-' if f'tokens.block={BEHIND}' in changes else ''
            config = read_train_config(PRESET, [
                f'data_root={data}', f'seed={seed}', f'steps={STEPS}', f'tokens.window={WINDOW}',
                f'tokens.folder={tokens}/{of_block}seed{seed}', *changes])
            for column, share in measured(config, RUNS / f'{STEPS}-{name}-{seed}').items():
                found.setdefault(row, {}).setdefault(column, []).append(share)
            print(row, seed, {k: v[-1] for k, v in found[row].items()}, file=sys.stderr)
    path = write('ablation', [
        Metric(metric=f'{row}: {column} R@1', value=round(float(np.mean(shares)), 4), unit='1',
               scope=f'{STEPS} steps, {len(shares)} seeds, {min(shares):.3f} to {max(shares):.3f}')
        for row, of in found.items() for column, shares in of.items()])
    text = PAGE.read_text(encoding='utf-8')
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(f'{before}{BEGIN}\n{as_table(found)}\n{END}{rest.partition(END)[2]}',
                    encoding='utf-8')
    sys.stdout.write(path.read_text(encoding='utf-8'))
    return 0


def measured(config: TrainConfig, folder: Path) -> dict[str, float]:
    """Recall@1 of each validation set after the last step."""
    record = folder / 'record.json'
    if not record.is_file() or json.loads(record.read_text())['status'] != 'finished':
        torch.manual_seed(config.seed)
        train(config, folder, Silent(), resume=(folder / 'state.safetensors').exists())
    last = [point for point in json.loads(record.read_text())['curve'] if 'recall' in point][-1]
    return {name: float(of['1']) for name, of in last['recall'].items()}


def as_table(found: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: a line a row, the mean and the range over seeds."""
    columns = list(next(iter(found.values())))
    lines = ['| head | ' + ' | '.join(columns) + ' |', '|---|' + '---|' * len(columns)]
    for row, of in found.items():
        cells = [f'{100 * np.mean(of[c]):.1f} ({100 * min(of[c]):.1f} to {100 * max(of[c]):.1f})'
                 for c in columns]
        lines.append(f'| {row} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


if __name__ == '__main__':
    if len(sys.argv) != 3:
        print('needs the data and a folder for tokens: python -m benchmarks.ablation DATA TOKENS')
        sys.exit(0)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
