"""`regvpr train --map`: fine-tune a model on the user's own site."""

import argparse
from collections.abc import Iterator
import contextlib
from typing import Any, TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from regvpr_core.cli.console import print_facts, say, say_next

if TYPE_CHECKING:
    from regvpr_core.maps.place_map import PlaceMap


def run_site(options: argparse.Namespace) -> None:
    """Train on maps, and print recall before and after."""
    from regvpr_core.recordings.source_kinds import check_exists

    check_exists([*options.map, *options.other, *options.bag])
    from regvpr_core.cli.map_tools import keyframe_images
    from regvpr_core.cli.train import BarWatch
    from regvpr_core.maps.place_map import PlaceMap
    from regvpr_core.training.settings import read_train_config
    from regvpr_core.training.site import train_on_site

    console = Console(stderr=True)
    config = read_train_config(options.config, options.set)
    watch = BarWatch(console)

    def images(place_map: 'PlaceMap') -> Iterator[Any]:
        return keyframe_images(place_map, options.bag, set(), console)

    with contextlib.ExitStack() as stack:
        maps, others = ([stack.enter_context(PlaceMap.open(path, index='none'))
                         for path in paths] for paths in (options.map, options.other))
        try:
            report = train_on_site(config, options.out, maps, images, watch,
                                   teacher=options.teacher, others=others,
                                   resume=options.resume)
        finally:
            watch.close()
    facts: dict[str, Any] = {
        'checkpoint': None if report.checkpoint is None else str(report.checkpoint),
        'start': report.start,
        'share of the trained weights': report.share, 'images': report.data.images,
        'places': report.data.places, 'held-out gallery': report.data.gallery,
        'held-out queries': report.data.queries, 'step seconds': round(report.seconds, 1)}
    for row in report.recalls:
        facts |= {f'{row.name}: queries': row.queries,
                  f'{row.name}: recall@1': [round(row.before, 4), round(row.after, 4)],
                  f'{row.name}: recall@1 centred': [round(row.before_centred, 4),
                                                    round(row.after_centred, 4)]}
        if row.of_teacher is not None:
            facts[f'{row.name}: {options.teacher}'] = [round(x, 4) for x in row.of_teacher]
    if report.map_model:
        facts[f'held-out stretch: {report.map_model}'] = [
            round(share, 4) for share in report.of_map_model]
    if options.json:
        print_facts(facts, True)
        return
    print_facts({name: value for name, value in facts.items()
                 if value is not None and not isinstance(value, list)}, False)
    if report.recalls:
        table = Table('recall@1', 'before', 'after', 'before, mean off', 'after, mean off',
                      *(['teacher', 'teacher, mean off'] if options.teacher else []))
        for row in report.recalls:
            table.add_row(row.name, f'{row.before:.1%}', f'{row.after:.1%}',
                          f'{row.before_centred:.1%}', f'{row.after_centred:.1%}',
                          *(f'{share:.1%}' for share in row.of_teacher or ()))
        Console().print(table)
    else:
        say(console, 'nothing is held out: the maps have too few images of one stretch', 'yellow')
    if not others:
        say(console, 'the change of recall on other sites was not measured: give maps of '
                     'another site with --other', 'yellow')
    better = report.checkpoint is not None
    if not better:
        say(console, f'training did not help on this site: on the validation stretch no mix of '
                     f'old and trained weights is better than {report.start}, which is kept. '
                     f'More drives in other light, or the original images (--bag), may help',
            'yellow')
    elif report.worse:
        say(console, f'on the held-out stretch the new model finds fewer images than '
                     f'{report.start}: keep {report.start}', 'yellow')
        better = False
    if report.map_model and report.recalls:
        ours, theirs = report.recalls[0].after_centred, report.of_map_model[1]
        say(console, f'{report.map_model}, the model of the map, has '
                     f'{report.of_map_model[0]:.1%} and {theirs:.1%} with the mean off on the '
                     f'held-out stretch' + ('' if ours > theirs else ': keep it'), 'yellow')
        better = better and ours > theirs
    if better:
        say_next(console, f'regvpr map convert {options.map[0]} --model {report.checkpoint} '
                          f'--out NEW')
