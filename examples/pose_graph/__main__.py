"""Correct the odometry drift of two laps through the town by loop closures and GTSAM.

    python -m examples.pose_graph                 # about a minute
    python -m examples.pose_graph --features ''   # closures without a verified pose
"""

import argparse
import json
from pathlib import Path
import sys
import time

import numpy as np
from rich.console import Console
from rich.progress import track

from examples.pose_graph.drive import Drive, run_session, wrong_closure
from examples.pose_graph.error import trajectory_error
from examples.pose_graph.graph import solve
from examples.pose_graph.picture import draw
from examples.town import LapConfig, Town, TownConfig
from examples.town.camera import T_BASE_CAM
from examples.town.drive import Drive as TownDrive
from regvpr_core.config import DEFAULT_MODEL
from regvpr_core.errors import RegvprError

PICTURE = Path('build/pose_graph.png')


def main(arguments: list[str] | None = None) -> int:
    """Drive, find loop closures, solve three pose graphs, plot."""
    parser = argparse.ArgumentParser(prog='python -m examples.pose_graph', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seed', type=int, default=1, help='of the town')
    parser.add_argument('--laps', type=float, default=2.0)
    parser.add_argument('--features', default='xfeat', choices=('', 'patch', 'xfeat'))
    parser.add_argument('--model', default=DEFAULT_MODEL, help='name or checkpoint')
    parser.add_argument('--picture', type=Path, default=PICTURE, metavar='FILE.png')
    parser.add_argument('--json', action='store_true', help='print only JSON')
    options = parser.parse_args(arguments)
    console = Console(stderr=True, quiet=options.json)
    try:
        start = time.monotonic()
        drive = recorded(options.seed, options.laps, options.features, options.model, console)
        if not drive.closures:
            console.print(f'no loop closure among {len(drive.keyframes)} keyframes; drive more '
                          f'than one lap (--laps 2)')
            return 1
        summary, solutions = solved(drive)
        summary['seconds'] = round(time.monotonic() - start, 1)
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        draw(drive, solutions, summary, options.picture)
        print(json.dumps(summary, indent=1))
        console.print(f'picture: {options.picture}')
    except (RegvprError, OSError) as error:
        console.print(f'error: {error}')
        return 1
    return 0


def recorded(seed: int, laps: float, features: str, model: str, console: Console) -> Drive:
    """Drive through the town and find loop closures."""
    from regvpr_core.localization.session import SessionConfig, SessionLoops
    from regvpr_core.models.encoder import load_encoder
    from regvpr_core.verification.camera_rays import Intrinsics
    from regvpr_core.verification.local_extractor import LocalExtractor

    town = Town(TownConfig(seed=seed))
    lap = LapConfig(condition='day', seed=5, laps=laps, rate_hz=2.5)
    encoder = load_encoder(model)
    total = TownDrive(town.config, lap, 0).frames
    frames = track(town.drive(lap), f'driving {laps:g} laps', total=total, console=console)
    camera = Intrinsics(width=town.camera.width, height=town.camera.height, K=town.camera.matrix)
    return run_session(frames, LocalExtractor(features, encoder),
                       SessionLoops(encoder, SessionConfig()), camera, T_BASE_CAM)


def solved(drive: Drive) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Solve with the closures, with a wrong one added, and with the wrong one not doubted."""
    wrong = wrong_closure(drive.closures, len(drive.keyframes))
    truth, odometry = drive.T_true_base, drive.T_odom_base
    closed = solve(odometry, drive.closures)
    spoiled = solve(odometry, [*drive.closures, wrong])
    believed = solve(odometry, [*drive.closures, wrong], robust=False)
    solutions = {'odometry': odometry, 'closed': closed.T_world_base,
                 'with a wrong closure': spoiled.T_world_base,
                 'wrong closure believed': believed.T_world_base}
    errors = {name: trajectory_error(poses, truth) for name, poses in solutions.items()}
    apart = [float(np.linalg.norm(truth[one.query][:3, 3] - truth[one.reference][:3, 3]))
             for one in drive.closures]
    summary = {
        'keyframes': len(drive.keyframes), 'closures': len(drive.closures),
        'verified': sum(one.verified for one in drive.closures),
        'closures_within_5m': sum(metres < 5.0 for metres in apart),
        'believed': int((closed.weights > 0.5).sum()),
        'wrong_one_believed': float(spoiled.weights[-1]),
        'ate_odometry_m': errors['odometry'], 'ate_closed_m': errors['closed'],
        'ate_with_wrong_m': errors['with a wrong closure'],
        'ate_wrong_believed_m': errors['wrong closure believed'],
        'times_better': errors['odometry'] / errors['closed'],
        'times_better_with_wrong': errors['odometry'] / errors['with a wrong closure'],
    }
    return {name: round(value, 3) for name, value in summary.items()}, solutions


if __name__ == '__main__':
    sys.exit(main())
