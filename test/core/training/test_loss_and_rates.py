import math

import pytest
import torch

from regvpr_core.errors import ConfigError, TrainingError
from regvpr_core.models.adapter import AdapterConfig
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.training.config import LossConfig, OptimiserConfig, ScheduleConfig
from regvpr_core.training.losses import PlaceLoss
from regvpr_core.training.optimiser import adamw, named_trainable, rate_factor, set_rates
from regvpr_core.training.recompute import recompute


def test_the_loss_of_four_rows_is_what_the_formula_gives():
    rows = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-0.6, 0.8]])
    labels = torch.tensor([0, 0, 1, 1])
    # Similarities: within places 0.6 and 0.8; across 0, -0.6, 0.8 and 0.28. The miner keeps
    # positives below the hardest negative + 0.1 and negatives above the hardest positive - 0.1.
    kept = [([], []), ([0.6], [0.8]), ([0.8], [0.8]), ([], [])]
    want = 0.0
    for positives, negatives in kept:
        want += math.log1p(sum(math.exp(-s) for s in positives))
        want += math.log1p(sum(math.exp(50 * s) for s in negatives)) / 50
    got = PlaceLoss(LossConfig())(rows, labels)
    assert float(got) == pytest.approx(want / 4, rel=1e-5)


def test_without_any_pair_the_loss_is_0_and_its_gradient_too():
    rows = torch.eye(4, requires_grad=True)
    loss = PlaceLoss(LossConfig())(rows, torch.arange(4))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(rows.grad, torch.zeros(4, 4))


def test_salads_schedule_falls_to_a_fifth_over_4000_steps():
    factors = [rate_factor(ScheduleConfig(), step, 10_000) for step in (0, 2000, 4000, 9000)]
    assert factors == pytest.approx([1.0, 0.6, 0.2, 0.2])


def test_one_cycle_rises_over_its_share_and_falls_to_the_end():
    config = ScheduleConfig(kind='one_cycle', steps=0, warmup=0.2, end=0.01)
    factors = [rate_factor(config, step, 100) for step in range(100)]
    assert max(factors) == pytest.approx(1.0, abs=1e-3)
    assert factors.index(max(factors)) in (19, 20)
    assert factors[0] < 0.01
    assert factors[-1] < 0.012
    assert factors[60] == pytest.approx(0.01 + 0.99 / 2)


def test_cosine_and_constant():
    cosine = ScheduleConfig(kind='cosine', steps=10, end=0.0)
    assert [rate_factor(cosine, s, 99) for s in (0, 5, 10)] == pytest.approx([1.0, 0.5, 0.0])
    assert rate_factor(ScheduleConfig(kind='constant', steps=10), 500, 99) == 1.0
    rising = ScheduleConfig(kind='constant', steps=10, warmup=0.5)
    assert [rate_factor(rising, s, 99) for s in (0, 4, 7)] == pytest.approx([0.2, 1.0, 1.0])


def test_adapters_head_and_blocks_have_rates_of_their_own():
    model = DescriptorModel(ModelConfig(
        aggregator='salad', adapter=AdapterConfig(blocks='last_1'), train='last_1'))
    optimiser = adamw(named_trainable(model), OptimiserConfig(lr=1.0, lr_adapters=2.0,
                                                              lr_backbone=0.5))
    set_rates(optimiser, 0.1)
    rates = {group['name']: group['lr'] for group in optimiser.param_groups}
    assert rates == pytest.approx({'adapters': 0.2, 'head': 0.1, 'backbone': 0.05})
    assert optimiser.param_groups[0]['weight_decay'] == 9.5e-9


def test_a_model_that_trains_nothing_is_refused():
    with pytest.raises(TrainingError, match='trains nothing: its gem head learns nothing'):
        named_trainable(DescriptorModel(ModelConfig()))


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r'optimiser\.lr is -1'):
        OptimiserConfig(lr=-1.0)
    with pytest.raises(ConfigError,
                       match=r"unknown schedule\.kind 'linaer'; did you mean 'linear'"):
        ScheduleConfig(kind='linaer')


@pytest.mark.parametrize('blocks', [1, 2, 12])
def test_recomputed_blocks_give_the_same_gradients_and_keep_less(blocks):
    config = ModelConfig(aggregator='regvpr', adapter=AdapterConfig(), train='adapter',
                         last_block=1)
    torch.manual_seed(0)
    model = DescriptorModel(config).eval()
    named = named_trainable(model)
    images = torch.randn(2, 3, 28, 42)

    def gradients():
        model.zero_grad()
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
                lambda t: kept.append(t.numel()) or t, lambda t: t):
            rows = model(images)
        (rows * torch.arange(rows.numel()).view_as(rows).cos()).sum().backward()
        run = [p for key, p in model.named_parameters()
               if p.requires_grad and 'blocks.1' not in key.replace('blocks.10', '')
               and p.grad is not None]
        return [p.grad.clone() for p in run], sum(kept)

    plain, kept = gradients()
    keys = list(model.state_dict())
    recompute(model.backbone, blocks, config.last_block)
    again, kept_less = gradients()
    assert list(model.state_dict()) == keys
    assert len(plain) == len(again) > 30
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert kept_less < 0.75 * kept
    assert named['adapters']
