"""Selects the TF topics of a camera's namespace."""

from collections.abc import Sequence

from regvpr_core.errors import BagError
from regvpr_core.recordings.bags import Bag, TF_TYPES
from regvpr_core.recordings.transforms import TransformTree


class TfChoice:
    """Transforms of a bag by camera; each selection of topics is read once."""

    def __init__(self, bag: Bag, wanted: str | None, *, bag_time: bool) -> None:
        """Find the TF topics. wanted: a TF topic named by the user, or None."""
        self._bag = bag
        self._wanted = wanted
        self._bag_time = bag_time
        self._trees: dict[tuple[str, ...], TransformTree] = {}
        self._topics = [topic.name for topic in bag.topics(*TF_TYPES) if topic.count]
        if wanted is not None and wanted not in self._topics:
            raise BagError(f'{bag.path} has no TF topic {wanted!r}; it has: '
                           f'{", ".join(self._topics) or "none"}')

    def tree(self, image_topic: str) -> TransformTree:
        """The transforms for a camera.

        Raises:
            BagError: TF topics of several namespaces, and none is the camera's.
        """
        topics = tuple(self._belonging(image_topic))
        if topics not in self._trees:
            self._trees[topics] = self._bag.transforms(topics, bag_time=self._bag_time)
        return self._trees[topics]

    def _belonging(self, image_topic: str) -> Sequence[str]:
        spaces: dict[str, list[str]] = {}
        for name in self._topics:
            spaces.setdefault(name.rpartition('/')[0], []).append(name)
        if self._wanted is not None:
            chosen = self._wanted.rpartition('/')[0]
        else:
            around = [space for space in spaces
                      if f'{image_topic}/'.startswith(f'{space}/')]
            moving = [space for space in around if self._moving(spaces[space])]
            if not around and len(spaces) > 1:
                listed = ' or '.join(f'--tf-topic {name}' for name in self._topics
                                     if not name.endswith('tf_static')) or ', '.join(self._topics)
                raise BagError(f'{self._bag.path} has TF topics of several namespaces, and '
                               f'{image_topic} is in none of them; choose one: {listed}')
            chosen = max(moving or around or list(spaces), key=len, default='')
        found = list(spaces.get(chosen, ()))
        # Static transforms may be published for all robots, or in the camera's namespace.
        found += [name for space, names in spaces.items() if space != chosen
                  and (not space or f'{image_topic}/'.startswith(f'{space}/'))
                  for name in names if name.endswith('tf_static')
                  and not (space == '' and any(n.endswith('tf_static') for n in found))]
        return found

    @staticmethod
    def _moving(names: Sequence[str]) -> bool:
        return any(not name.endswith('tf_static') for name in names)
