"""Settings of a data set: layout, folder, and what makes a place."""

from dataclasses import dataclass

from regvpr_core.config import check_choice, check_range

DATA_KINDS = ('gsv_cities', 'msls', 'utm', 'folders', 'clips', 'manifest')
VALIDATION_KINDS = ('msls', 'utm', 'clips', 'manifest')


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """One data set of places.

    kind: `gsv_cities` (Dataframes/CITY.csv, Images/CITY/), `msls` (train_val/CITY/…), `utm` (names
        with @easting@northing@), `folders` (a folder a place), `clips` (dataset.csv with clip and
        second; a place is a second of a clip and its neighbours), `manifest` (a CSV of image,
        place, split, and if it likes group, x, y, yaw).
    folder: of the data set, absolute or below the run's `data_root`. For `manifest` the CSV file.
    only, leave_out: groups to take or to leave (cities; for `clips` floors or clips). Empty: all.
    split: for `manifest`: rows of this split.
    cell_m: for `msls` and `utm`: side of the squares that make a place, 1 to 1000 m.
    heading_bins: for `msls` and `utm` where the heading is known, a place is also one of so many
        directions, 1 to 36; 1 takes no notice of it.
    apart: two places of one batch lie at least so far apart, metres (seconds for `clips`), 0 to
        1e6; nearer ones could show the same thing. For places that have a position.
    window_s: for `clips`: seconds to each side that belong to the place, 0 to 60.
    repeat: its places come so often in an epoch, 1 to 10000: small sets beside large ones.
    copies: of its pictures, in place of `tokens.copies` where that is more, 0 to 64.
    """

    kind: str = 'gsv_cities'
    folder: str = ''
    only: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    split: str = 'train'
    cell_m: float = 10.0
    heading_bins: int = 6
    apart: float = 25.0
    window_s: int = 1
    repeat: int = 1
    copies: int | None = None

    def __post_init__(self) -> None:
        check_choice('data.kind', self.kind, DATA_KINDS)
        check_range('data.cell_m', self.cell_m, 1.0, 1000.0)
        check_range('data.heading_bins', self.heading_bins, 1, 36)
        check_range('data.apart', self.apart, 0.0, 1e6)
        check_range('data.window_s', self.window_s, 0, 60)
        check_range('data.repeat', self.repeat, 1, 10_000)
        if self.copies is not None:
            check_range('data.copies', self.copies, 0, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationConfig:
    """One set that recall is measured on.

    kind: `msls` (validation, 740 queries), `utm` (database and queries below `split`), `clips` and
        `manifest` (rows of split `gallery` and `query`).
    folder, only, leave_out: as in `DataConfig`.
    split: for `utm`: folder of the split, as in images/val.
    radius: a reference is right up to so far, metres (seconds for `clips`), 0 to 1e6.
    """

    kind: str = 'utm'
    folder: str = ''
    only: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    split: str = 'images/val'
    radius: float = 25.0

    def __post_init__(self) -> None:
        check_choice('validation.kind', self.kind, VALIDATION_KINDS)
        check_range('validation.radius', self.radius, 0.0, 1e6)
