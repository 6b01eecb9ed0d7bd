"""Which parameters of a descriptor model are trained, in groups for the optimiser."""

from torch import nn

from regvpr_core.models.adapter import AdaptedBlock
from regvpr_core.models.descriptor_model import DescriptorModel
from regvpr_core.models.gem import GeM
from regvpr_core.models.inside_registers import InsideRegisters


def trainable_parameters(model: DescriptorModel) -> dict[str, list[nn.Parameter]]:
    """The parameters that the model's config selects for training, by group.

    Returns:
        `backbone`: the whole backbone or its last blocks, with or without the final LayerNorm, and
        the blocks of an aggregator with registers inside;
        `adapters`: of all blocks; `head`: the aggregator, if it has parameters. Groups are
        disjoint and may be empty.
    """
    config, backbone = model.config, model.backbone
    adapters = [parameter for block in backbone.blocks if isinstance(block, AdaptedBlock)
                for parameter in block.adapter.parameters()]
    of_adapters = {id(parameter) for parameter in adapters}
    modules: list[nn.Module] = [backbone] if config.train == 'all' else []
    if config.trained_blocks:
        modules = list(backbone.blocks)[:config.depth][-config.trained_blocks:]
    if config.trains_norm and config.train != 'all':
        modules.append(backbone.norm)
    inside = model.aggregator.blocks if isinstance(model.aggregator, InsideRegisters) else \
        nn.ModuleList()
    of_blocks = {id(parameter) for parameter in inside.parameters()}
    if of_blocks and model.aggregator.config.train_blocks:
        modules.append(inside)
    averages = isinstance(model.aggregator, GeM) and model.aggregator.averages
    return {
        'backbone': [parameter for module in modules for parameter in module.parameters()
                     if id(parameter) not in of_adapters],
        'adapters': [] if config.train == 'frozen' else adapters,
        'head': [] if averages else [parameter for parameter in model.aggregator.parameters()
                                     if id(parameter) not in of_blocks],
    }


def freeze_the_rest(model: DescriptorModel) -> dict[str, list[nn.Parameter]]:
    """Enable gradients for the trainable parameters only, and return their groups."""
    groups = trainable_parameters(model)
    model.requires_grad_(False)
    for parameters in groups.values():
        for parameter in parameters:
            parameter.requires_grad_(True)
    return groups
