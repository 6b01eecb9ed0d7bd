"""Settings of a data set: layout, folder, and what makes a place."""

from dataclasses import dataclass

from regvpr_core.config import check_settings, setting

DATA_KINDS = ('gsv_cities', 'msls', 'utm', 'folders', 'clips', 'manifest')
VALIDATION_KINDS = ('msls', 'utm', 'clips', 'manifest')


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """One data set of places."""

    kind: str = setting(
        'gsv_cities',
        '`gsv_cities` (Dataframes/CITY.csv, Images/CITY/), `msls` (train_val/CITY/…), `utm` '
        '(names with @easting@northing@), `folders` (a folder for each place), `clips` '
        '(dataset.csv with clip and second; a place is a second of a clip and its neighbours), '
        '`manifest` (a CSV of image, place, split and optionally group, x, y, yaw).',
        choices=DATA_KINDS)
    folder: str = setting(
        '',
        'Folder of the data set, absolute or below `data_root` of the run; for `manifest` the '
        'CSV file.')
    only: tuple[str, ...] = setting(
        (), 'Groups to take (cities; floors or clips for `clips`); empty takes all.')
    leave_out: tuple[str, ...] = setting(
        (), 'Groups to leave out (cities; floors or clips for `clips`).')
    split: str = setting('train', 'Rows of this split, for `manifest`.')
    cell_m: float = setting(
        10.0, 'Side of the squares that make a place, for `msls` and `utm`.',
        1.0, 1000.0, unit='m')
    heading_bins: int = setting(
        6,
        'Number of directions that make separate places where the heading is known, for `msls` '
        'and `utm`; 1 ignores the heading.', 1, 36)
    apart: float = setting(
        25.0,
        'Least distance between two places of one batch, in metres (seconds for `clips`): nearer '
        'places could show the same thing. For places with a position.', 0.0, 1000000.0)
    window_s: int = setting(
        1, 'Seconds to each side that belong to the place, for `clips`.', 0, 60, unit='s')
    repeat: int = setting(
        1, 'Number of times its places occur in an epoch: balances small sets against large ones.',
        1, 10000)
    copies: int | None = setting(
        None, 'Augmented copies of its images, in place of `tokens.copies`.', 0, 64)

    def __post_init__(self) -> None:
        check_settings(self, 'data')


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationConfig:
    """One data set on which recall is measured."""

    kind: str = setting(
        'utm',
        '`msls` (validation, 740 queries), `utm` (database and queries below `split`), `clips` '
        'and `manifest` (rows of split `gallery` and `query`).', choices=VALIDATION_KINDS)
    folder: str = setting('', 'As in the training data.')
    only: tuple[str, ...] = setting((), 'As in the training data.')
    leave_out: tuple[str, ...] = setting((), 'As in the training data.')
    split: str = setting('images/val', 'Folder of the split, such as images/val, for `utm`.')
    radius: float = setting(
        25.0, 'A reference is right up to this distance, in metres (seconds for `clips`).',
        0.0, 1000000.0)

    def __post_init__(self) -> None:
        check_settings(self, 'validation')
