"""Published checkpoints of other methods, under our key names: DINOv2-SALAD and MegaLoc.

Layouts: `dino_salad.ckpt` of github.com/serizba/salad, a plain state dict of a pickle; the
safetensors file of github.com/gmberton/MegaLoc. Only key names and shapes are taken from them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from regvpr_core.config import nearest
from regvpr_core.errors import CheckpointError
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A published model: our config for it, its key for each of ours, and what it leaves out.

    their_key: our key to the published one.
    files, url: names that the published file is looked for under, and where to get it.
    left_out: keys of ours that the file lacks and inference never uses; they become zeros.
    """

    config: ModelConfig
    their_key: Callable[[str], str]
    files: tuple[str, ...] = ()
    url: str = ''
    left_out: frozenset[str] = frozenset()


def salad_key(key: str) -> str:
    """Our key to that of `dino_salad.ckpt`."""
    return key.replace('backbone.', 'backbone.model.', 1) if key.startswith('backbone.') else key


def megaloc_key(key: str) -> str:
    """Our key to that of MegaLoc's safetensors file."""
    if key.startswith('aggregator.projection.'):
        return key.replace('aggregator.projection.', 'aggregator.linear.', 1)
    if key.startswith('aggregator.'):
        return key.replace('aggregator.', 'aggregator.agg.', 1)
    return key


# Both are evaluated at 322 pixels by their authors.
EVALUATED = Preprocessing(height=322, width=322)

PEERS = {
    'salad_vitb14': Peer(
        config=ModelConfig(backbone='vitb14', aggregator='salad', train='last_4',
                           preprocessing=EVALUATED),
        their_key=salad_key, files=('dino_salad.ckpt',),
        url='https://github.com/serizba/salad/releases/download/v1.0.0/dino_salad.ckpt'),
    'megaloc': Peer(
        config=ModelConfig(backbone='vitb14', aggregator='salad', train='last_4',
                           aggregator_config={'cluster_dim': 256, 'output_dim': 8448},
                           preprocessing=EVALUATED),
        their_key=megaloc_key, files=('megaloc.safetensors', 'model.safetensors'),
        url='https://huggingface.co/gberton/MegaLoc/resolve/main/model.safetensors',
        left_out=frozenset({'backbone.mask_token'})),
}
"""Name to peer."""


def peer_state(name: str, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Bring a published file's tensors to the names and shapes of `DescriptorModel`.

    Args:
        name: in `PEERS`.
        weights: the file's tensors, read without running code from it (`weights_only=True`).
        source: what to call the file in a message.

    Returns:
        a state dict for `DescriptorModel(PEERS[name].config)`, float32.

    Raises:
        CheckpointError: unknown peer; or names the published keys that are missing, unknown, of
            another shape or not finite.
    """
    if name not in PEERS:
        raise CheckpointError(f'unknown peer {name!r}{nearest(name, PEERS)}')
    peer = PEERS[name]
    with torch.device('meta'):
        expected = DescriptorModel(peer.config).state_dict()
    theirs = {key: peer.their_key(key) for key in expected.keys() - peer.left_out}
    spare = {peer.their_key(key) for key in peer.left_out}
    wrong = [f'{theirs[key]} {tuple(weights[theirs[key]].shape)} instead of {tuple(like.shape)}'
             for key, like in sorted(expected.items())
             if theirs.get(key) in weights and not _fits(weights[theirs[key]], like)]
    for problem, keys in (('lacks', sorted(set(theirs.values()) - weights.keys())),
                          ('has unknown', sorted(weights.keys() - set(theirs.values()) - spare)),
                          ('has', wrong)):
        if keys:
            more = f' and {len(keys) - 3} more' if len(keys) > 3 else ''
            raise CheckpointError(f'{source} is not a {name} file: it {problem} '
                                  f'{", ".join(keys[:3])}{more}')
    for key in theirs.values():
        if not bool(weights[key].isfinite().all()):
            raise CheckpointError(f'{source} is damaged: {key} holds values that are not finite')
    return {key: weights[theirs[key]].float().reshape(like.shape) if key in theirs
            else torch.zeros(like.shape) for key, like in expected.items()}


def load_peer(name: str, weights: Mapping[str, Tensor], source: str) -> DescriptorModel:
    """A published model in eval mode, ready to run.

    Raises:
        CheckpointError: the weights do not fit, see `peer_state`.
    """
    state = peer_state(name, weights, source)
    with torch.device('meta'):
        model = DescriptorModel(PEERS[name].config)
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def _fits(tensor: Tensor, like: Tensor) -> bool:
    """The same shape, or a 1x1 convolution where we have a linear layer."""
    shape = tuple(tensor.shape)
    one_by_one = len(shape) == 4 and shape[2:] == (1, 1) and like.ndim == 2
    return (shape[:2] if one_by_one else shape) == tuple(like.shape)
