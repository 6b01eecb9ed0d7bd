"""Initialisation of a head from token statistics instead of random weights.

A random head of 8448 numbers is worse than the average of the tokens for many batches. With this
initialisation it is a VLAD of whitened tokens with soft assignment (Jegou et al., CVPR 2010;
AnyLoc, arXiv:2308.00688) before its first step. The paper does not describe the initialisation.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn, Tensor

from regvpr_core.arrays import Float64, Int64
from regvpr_core.errors import TrainingError
from regvpr_core.models.descriptor_model import DescriptorModel
from regvpr_core.models.inside_registers import InsideRegisters
from regvpr_core.models.register_aggregator import RegisterAggregator
from regvpr_core.models.salad import Salad
from regvpr_core.training.config import HeadStartConfig, TrainConfig
from regvpr_core.training.randomness import generator
from regvpr_core.training.sources import Source

HEAD_START = 3
"""Stream number of the random generator, unique to this module."""

PASS = 32
"""Images per pass."""


@torch.no_grad()
def start_head(
    train: TrainConfig, config: HeadStartConfig, model: DescriptorModel, source: Source
) -> None:
    """Initialise the head of a run from a sample of its images.

    Raises:
        TrainingError: the head does not support it, or there is too little data.
    """
    random = generator(train.seed, HEAD_START)
    found = torch.randperm(len(source.places.paths), generator=random)[:config.pictures].numpy()
    model.eval()
    head = model.aggregator
    tokens = source.tokens
    if isinstance(head, InsideRegisters):
        _, rows = sampled(tokens, found, config.patches, random)
        centres, _ = clusters(rows.double().numpy(), len(head.registers), train.seed)
        head.registers.copy_(torch.from_numpy(centres))
        if head.transport is None:
            return

        def tokens(images: Int64) -> tuple[Tensor, Tensor]:
            return inside.passed(*source.tokens(images))[:2]
        inside, head = head, head.transport
    start_from_tokens(head, *sampled(tokens, found, config.patches, random), config, train.seed)


def sampled(
    tokens: Callable[[Int64], tuple[Tensor, Tensor]], images: Int64, patches: int,
    random: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Class tokens (M, width) of images, and some patch tokens of each (M * patches, width)."""
    first, drawn = [], []
    for start in range(0, len(images), PASS):
        class_tokens, grids = tokens(images[start:start + PASS])
        rows = grids.flatten(2).transpose(1, 2).float().cpu()  # (B, n, width)
        at = torch.randint(rows.shape[1], (len(rows), patches), generator=random)
        first.append(class_tokens.float().cpu())
        drawn.append(torch.take_along_dim(rows, at[:, :, None], dim=1).flatten(0, 1))
    return torch.cat(first), torch.cat(drawn)


def start_from_tokens(
    head: nn.Module, class_tokens: Tensor, patch_tokens: Tensor, config: HeadStartConfig, seed: int
) -> None:
    """Set the weights of a register or SALAD head from a sample of tokens, in place.

    Features are the strongest principal components of the patch tokens, clusters k-means centres,
    the scene token the components of the class token. Encoder layers start as identities.

    Args:
        head: to initialise.
        class_tokens: (M, width); patch_tokens: (N, width), of many images.
        config: settings.
        seed: of k-means.

    Raises:
        TrainingError: another kind of head, or too few tokens.
    """
    if not isinstance(head, RegisterAggregator | Salad):
        raise TrainingError(f'{type(head).__name__} cannot start from tokens; only the heads '
                            f'regvpr, inside and salad can')
    half = head.config.hidden_dim // 2
    least = 4 * max(half, head.config.clusters)
    if len(patch_tokens) < least or len(class_tokens) < 2:
        raise TrainingError(f'{len(patch_tokens)} patch tokens and {len(class_tokens)} class '
                            f'tokens are too few to start from; expected {least} and 2 or more')
    rows = patch_tokens.double().numpy()
    mean, basis = components(rows, half, config.whitening)
    projected = (rows - mean) @ basis.T  # (N, half)
    features = np.eye(head.config.cluster_dim, basis.shape[0])
    set_linear(head.cluster_features, mean, basis, features, np.zeros(len(features)))
    centres, spread = clusters(projected, head.config.clusters, seed)
    gain = config.sharpness / spread
    set_linear(head.score, mean, basis, gain * centres, -gain / 2 * (centres**2).sum(axis=1))
    mean, basis = components(class_tokens.double().numpy(), half, config.whitening)
    scene = np.eye(head.config.token_dim, basis.shape[0])
    set_linear(head.token_features, mean, basis, scene, np.zeros(len(scene)))
    for layer in getattr(head, 'encoder', ()):
        for last in (layer.proj, layer.mlp[3]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)


def components(rows: Float64, count: int, whitening: float) -> tuple[Float64, Float64]:
    """Mean (width,) and scaled principal components (count, width), strongest first.

    Scaled so that the mean variance of the projections is 1.
    """
    mean = rows.mean(axis=0)
    variances, vectors = np.linalg.eigh(np.cov(rows.T))
    order = np.argsort(-variances)[:count]
    kept = np.maximum(variances[order], 1e-9 * variances.max())
    basis = vectors[:, order].T * (kept ** -whitening)[:, None]
    return mean, basis / np.sqrt(np.mean(kept ** (1 - 2 * whitening)))


def clusters(rows: Float64, count: int, seed: int) -> tuple[Float64, float]:
    """k-means centres (count, D) and the mean squared distance to the nearest."""
    from scipy.cluster.vq import kmeans2

    centres, labels = kmeans2(rows, count, minit='++', iter=20, seed=seed)
    return centres, float(((rows - centres[labels]) ** 2).sum(axis=1).mean())


def set_linear(
    mlp: nn.Module, mean: Float64, basis: Float64, outer: Float64, bias: Float64
) -> None:
    """Make an MLP with ReLU the linear map outer @ basis @ (x - mean) + bias.

    Hidden units come in pairs of opposite sign: relu(z) - relu(-z) = z.
    """
    layers = [layer for layer in mlp.modules() if isinstance(layer, nn.Linear)]
    first, last = layers[0], layers[-1]
    hidden = np.concatenate([basis, -basis])
    values = ((first.weight, hidden), (first.bias, -hidden @ mean),
              (last.weight, np.concatenate([outer, -outer], axis=1)), (last.bias, bias))
    with torch.no_grad():
        for parameter, value in values:
            old = parameter.zero_()
            new = torch.from_numpy(np.ascontiguousarray(value)).to(old.dtype)
            old[tuple(slice(side) for side in new.shape)] = new
