"""Loads published checkpoints of other methods into the networks of this package.

Each peer has a network and a conversion of key names; `catalogue.py` describes the models.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
import pickle
import zipfile

import safetensors
from safetensors.torch import load_file
import torch
from torch import Tensor

from regvpr_core.config import nearest
from regvpr_core.errors import CheckpointError
from regvpr_core.models.adapter import AdapterConfig
from regvpr_core.models.catalogue import CATALOGUE
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.downloads import MAX_BYTES
from regvpr_core.models.methods import convolutional, edtformer, image_tokens, sage, selavpr
from regvpr_core.models.methods.matlab import is_matlab, read_netvlad
from regvpr_core.models.methods.network import PublishedNetwork
from regvpr_core.models.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Network of a published model and the conversion of its key names.

    config: of a `DescriptorModel`; or network: makes another module.
    their_key: converts a key of this package to the published one.
    left_out: keys that the file may lack, because inference does not use them; set to zeros.
    unread: prefixes of published keys that inference does not use.
    """

    config: ModelConfig | None = None
    network: Callable[[], PublishedNetwork] | None = None
    their_key: Callable[[str], str] = str
    left_out: frozenset[str] = frozenset()
    unread: tuple[str, ...] = ()

    def make(self) -> DescriptorModel | PublishedNetwork:
        """The network with random weights."""
        if self.config is not None:
            return DescriptorModel(self.config)
        if self.network is not None:
            return self.network()
        raise ValueError('a peer needs a config or a network')

    def empty(self) -> DescriptorModel | PublishedNetwork:
        """The network on the meta device, without storage."""
        with torch.device('meta'):
            return self.make()


def salad_key(key: str) -> str:
    """Convert a key to that in `dino_salad.ckpt`."""
    return key.replace('backbone.', 'backbone.model.', 1) if key.startswith('backbone.') else key


def megaloc_key(key: str) -> str:
    """Convert a key to that in MegaLoc's safetensors file."""
    if key.startswith('aggregator.projection.'):
        return key.replace('aggregator.projection.', 'aggregator.linear.', 1)
    if key.startswith('aggregator.'):
        return key.replace('aggregator.', 'aggregator.agg.', 1)
    return key


def boq_key(key: str) -> str:
    """Convert a key to that in BoQ's `dinov2_12288.pth`."""
    return key.replace('backbone.', 'backbone.dino.', 1) if key.startswith('backbone.') else key


STAGES = {'conv1': '0', 'bn1': '1', 'layer1': '4', 'layer2': '5', 'layer3': '6', 'layer4': '7'}
"""Modules of torchvision's ResNet, and their indices in files that use a sequence."""


def in_sequence(prefix: str) -> Callable[[str], str]:
    """A function that converts a key of our ResNet to that of torchvision's layers in a sequence.

    prefix: of the sequence in the file.
    """
    def their_key(key: str) -> str:
        if not key.startswith('trunk.'):
            return {'aggregator.power': 'aggregation.1.p',
                    'aggregator.projection.weight': 'aggregation.3.weight',
                    'aggregator.projection.bias': 'aggregation.3.bias'}.get(key, key)
        _, stage, rest = key.split('.', 2)
        return f'{prefix}{STAGES[stage]}.{rest}'
    return their_key


def mixvpr_key(key: str) -> str:
    """Convert a key to that in MixVPR's files."""
    for ours, theirs in (('trunk.', 'backbone.model.'), ('aggregator.mixers.', 'aggregator.mix.'),
                         ('aggregator.channel_projection.', 'aggregator.channel_proj.'),
                         ('aggregator.row_projection.', 'aggregator.row_proj.')):
        if key.startswith(ours):
            return key.replace(ours, theirs, 1)
    return key


def netvlad_key(key: str) -> str:
    """Convert a key to that of hloc's NetVLAD."""
    for ours, theirs in (('trunk.', 'backbone.'), ('aggregator.whiten.', 'whiten.'),
                         ('aggregator.', 'netvlad.')):
        if key.startswith(ours):
            return key.replace(ours, theirs, 1)
    return key


def cricavpr_key(key: str) -> str:
    """Convert a key to that in `CricaVPR.pth`."""
    if key == 'aggregator.power':
        return 'aggregation.1.p'
    return selavpr.adapter_key(key).replace('aggregator.encoder.', 'encoder.')


# The authors evaluate at 322 pixels.
EVALUATED = Preprocessing(height=322, width=322)
SALAD = ModelConfig(backbone='vitb14', aggregator='salad', train='last_4',
                    preprocessing=EVALUATED)

PEERS = {
    'salad_vitb14': Peer(config=SALAD, their_key=salad_key),
    'cliquemining': Peer(config=SALAD, their_key=salad_key),
    'megaloc': Peer(
        config=ModelConfig(backbone='vitb14', aggregator='salad', train='last_4',
                           aggregator_config={'cluster_dim': 256, 'output_dim': 8448},
                           preprocessing=EVALUATED),
        their_key=megaloc_key, left_out=frozenset({'backbone.mask_token'})),
    'boq_vitb14': Peer(
        # The features are those of the last block, without the final LayerNorm.
        config=ModelConfig(backbone='vitb14', last_block=11, aggregator='boq', train='last_2',
                           preprocessing=Preprocessing(height=322, width=322,
                                                       interpolation='bicubic')),
        their_key=boq_key),
    'cricavpr': Peer(
        config=ModelConfig(backbone='vitb14', adapter=AdapterConfig(variant='cricavpr'),
                           aggregator='cricavpr', train='adapter'),
        their_key=cricavpr_key),
    'image_vitb14': Peer(network=image_tokens.ImageTokens, their_key=image_tokens.image_key),
    'selavprplusplus': Peer(network=selavpr.SelaVpr, their_key=selavpr.selavpr_key),
    'edtformer': Peer(network=edtformer.EdtFormer, their_key=edtformer.edtformer_key),
    'sage_vitb14': Peer(network=sage.Sage, their_key=sage.sage_key,
                        unread=('aggregator.single_branch.',)),
    'boq_resnet50': Peer(network=convolutional.boq, their_key=in_sequence('backbone.net.')),
    'mixvpr': Peer(network=convolutional.mixvpr, their_key=mixvpr_key),
    'eigenplaces': Peer(network=convolutional.cosplace, their_key=in_sequence('backbone.')),
    'cosplace': Peer(network=convolutional.cosplace, their_key=in_sequence('backbone.')),
    'gem': Peer(network=convolutional.gem, their_key=in_sequence('backbone.')),
    'netvlad': Peer(network=convolutional.NetVladNetwork, their_key=netvlad_key),
}
"""Peers by name."""


def read_published(path: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a published file, without wrappers added by training frameworks.

    Pickles are read with `weights_only`, which creates tensors and plain containers only; the
    caller must have checked the digest.

    Raises:
        CheckpointError: too large, truncated, or neither safetensors nor a torch checkpoint.
    """
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(f'{path} is larger than {MAX_BYTES} bytes')
    if is_matlab(path):
        return read_netvlad(path)
    try:
        kind = _kind(path)
        weights = load_file(path) if kind == 'safetensors' else \
            torch.load(path, map_location='cpu', weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError,
            zipfile.BadZipFile, safetensors.SafetensorError) as error:
        raise CheckpointError(f'{path} is truncated or no {name} file: '
                              f'{" ".join(str(error).split())[:200]}') from error
    for wrapping in ('state_dict', 'model_state_dict'):
        if isinstance(weights, dict) and isinstance(weights.get(wrapping), dict):
            weights = weights[wrapping]
    if not isinstance(weights, dict) or not weights or \
            not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f'{path} is no {name} file: it holds no table of tensors')
    if all(key.startswith('module.') for key in weights):  # of DataParallel
        weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    return dict(weights)


def _kind(path: Path) -> str:
    """Kind of a file by its first bytes.

    Raises:
        ValueError: it is not a kind of published weights.
    """
    with path.open('rb') as file:
        start = file.read(9)
    if start[:4] == b'PK\x03\x04':
        return 'torch'
    if start[8:9] == b'{':
        return 'safetensors'
    if start[:1] == b'\x80':
        return 'torch'  # written before torch 1.6
    raise ValueError('neither a safetensors file nor a torch checkpoint')


def identify(keys: Iterable[str], file: str = '') -> str | None:
    """The peer with these keys; if several have the same layout, the one published as `file`."""
    found, names = set(keys), sorted(PEERS, key=lambda name: (
        name not in CATALOGUE or file not in CATALOGUE[name].files))
    for name in names:
        theirs, spare = published_keys(name)
        rest = {key for key in found if not key.startswith(PEERS[name].unread)}
        if theirs <= rest <= theirs | spare:
            return name
    return None


def published_keys(name: str) -> tuple[set[str], set[str]]:
    """Required and optional keys of a peer's file."""
    peer = PEERS[name]
    expected = peer.empty().state_dict()
    return ({peer.their_key(key) for key in expected.keys() - peer.left_out},
            {peer.their_key(key) for key in peer.left_out})


def peer_state(name: str, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Convert the tensors of a published file to the names and shapes of the network.

    Args:
        name: in `PEERS`.
        weights: the file's tensors, from `read_published`.
        source: name of the file in messages.

    Returns:
        a state dict for `PEERS[name].empty()`, float32.

    Raises:
        CheckpointError: unknown peer, or tensors that are missing, unknown, of another shape or
            not finite; the message names them.
    """
    if name not in PEERS:
        raise CheckpointError(f'unknown peer {name!r}{nearest(name, PEERS)}')
    peer = PEERS[name]
    expected = peer.empty().state_dict()
    weights = {key: value for key, value in weights.items() if not key.startswith(peer.unread)}
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
            other = identify(weights)
            other = f'; it is a {other} file' if other and other != name else ''
            raise CheckpointError(f'{source} is not a {name} file: it {problem} '
                                  f'{", ".join(keys[:3])}{more}{other}')
    for key in theirs.values():
        if not bool(weights[key].isfinite().all()):
            raise CheckpointError(f'{source} is damaged: {key} holds values that are not finite')
    return {key: _typed(weights[theirs[key]], like) if key in theirs
            else torch.zeros(like.shape) for key, like in expected.items()}


def load_peer(
    name: str, weights: Mapping[str, Tensor], source: str
) -> DescriptorModel | PublishedNetwork:
    """A published model in eval mode, ready to run.

    Raises:
        CheckpointError: the weights do not fit, see `peer_state`.
    """
    state = peer_state(name, weights, source)
    model = PEERS[name].empty()
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def _typed(tensor: Tensor, like: Tensor) -> Tensor:
    return tensor.to(like.dtype).reshape(like.shape)


def _fits(tensor: Tensor, like: Tensor) -> bool:
    """Whether shapes agree; a 1x1 convolution may replace a linear layer, and (1,) a scalar."""
    shape = tuple(tensor.shape)
    if tensor.numel() == like.numel() == 1:
        return True
    one_by_one = len(shape) > 2 and set(shape[2:]) == {1} and like.ndim == 2
    return (shape[:2] if one_by_one else shape) == tuple(like.shape)
