"""Folders of places: each folder that contains images is a place; its parent is the group."""

from pathlib import Path

from regvpr_core.datasets.config import DataConfig
from regvpr_core.datasets.folders import pictures_below
from regvpr_core.datasets.place_set import place_set, PlaceSet, wanted


def read_place_folders(root: Path, config: DataConfig) -> PlaceSet:
    """`root/PLACE/*.jpg`, or `root/GROUP/PLACE/*.jpg`.

    Raises:
        EvaluationError: the folder is missing or contains no image.
        TrainingError: an unknown group.
    """
    pictures = pictures_below(root, root)
    of_place: dict[Path, list[int]] = {}
    for number, picture in enumerate(pictures):
        of_place.setdefault(picture.path.parent.relative_to(root), []).append(number)
    group_of = {place: str(place.parent) for place in of_place}
    kept = wanted(list(dict.fromkeys(group_of.values())), config.only, config.leave_out, str(root))
    places = [place for place in of_place if group_of[place] in kept]
    return place_set(root.name, [p.path for p in pictures], [p.name for p in pictures],
                     [of_place[place] for place in places], [group_of[p] for p in places])
