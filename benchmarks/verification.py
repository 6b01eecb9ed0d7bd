"""Effect of local features: acceptance of true and false matches, pose errors, covariances.

The town of seed 11 is driven at dusk on a map built by day. `FULL=1` takes seeds 11 to 13, also in
rain. `SEEDS` (7 for tuning), `KINDS`, `CONDITIONS` and `MODEL` replace the defaults. `--fit`
learns `verification.LOG_ODDS` on seed 7 and `boofcv_scenes`.
"""

import os
from pathlib import Path
import sys
import time

import numpy as np
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from benchmarks.report import Metric, write
from benchmarks.town_drives import DAY, drive, second_lap, TownDrive
from benchmarks.town_features import described, town_map
from examples.town import TownConfig
from regvpr_core.geometry import distance
from regvpr_core.images import read
from regvpr_core.localization.frames import Description, Frame
from regvpr_core.localization.localizer import Localizer, LocalizerConfig, State
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import Encoder, load_encoder
from regvpr_core.verification.feature_matches import match_features, refined
from regvpr_core.verification.local_extractor import LocalExtractor
from regvpr_core.verification.place_pose import ERROR_SHARE
from regvpr_core.verification.relative_pose import uncalibrated
from regvpr_core.verification.verification import VerificationConfig, Verifier

FULL = bool(os.environ.get('FULL'))
SEEDS = [int(seed) for seed in os.environ.get('SEEDS', '11,12,13' if FULL else '11').split(',')]
KINDS = os.environ.get('KINDS', 'none,patch,xfeat').split(',')
CONDITIONS = os.environ.get('CONDITIONS', 'dusk,rain' if FULL else 'dusk').split(',')
SCENES = Path('../shared/data/boofcv_scenes/scene')

PLACE_M, PLACE_RAD, OTHER_M = 5.0, 0.6, 15.0
"""A keyframe is correct within the first two values of the truth, and wrong beyond the third."""

STEP = 4
TIMED = 30


def localized(encoder: Encoder, kind: str, seed: int, condition: str) -> dict[str, np.ndarray]:
    """Localize a second lap on the map of the first; errors and covariances of the pose priors."""
    stored = 'patch' if kind == 'none' else kind
    place_map = town_map(drive(TownConfig(seed=seed), DAY), encoder, stored)
    lap = drive(TownConfig(seed=seed), second_lap(condition))
    made = described(lap, encoder, stored)
    config = LocalizerConfig(verification=VerificationConfig(kind=kind, budget_s=10.0))
    localizer = Localizer(encoder, place_map, config)
    blank = np.zeros((240, 320, 3), np.uint8)
    errors, widths, verified, seconds, right = [], [], [], [], []
    for n in range(len(lap)):
        view = Frame(stamp_ns=int(lap.stamps_ns[n]), rgb=blank, T_base_cam=lap.T_base_cam)
        result = localizer.localize(
            Description(view, made.descriptors[n], None if kind == 'none' else made.features(n)),
            lap.T_odom_base[n])
        seconds.append(result.seconds['search'] + result.seconds['belief'])
        if result.state is not State.LOCALIZED or result.pose_prior is None:
            continue
        prior, truth = result.pose_prior, lap.T_map_base[n]
        turn = Rotation.from_matrix(truth[:3, :3] @ prior.T_map_base[:3, :3].T).as_rotvec()
        errors.append(np.concatenate([truth[:3, 3] - prior.T_map_base[:3, 3], turn]))
        widths.append(prior.covariance)
        verified.append(prior.verified)
        T_match = place_map.T_map_cam[result.matches[0].keyframe_id]
        metres, radians = distance(T_match, lap.T_map_cam[n])
        right.append(metres <= PLACE_M and radians <= PLACE_RAD)
    place_map.close()
    return {'errors': np.array(errors).reshape(-1, 6), 'widths': np.array(widths),
            'verified': np.array(verified), 'seconds': np.array(seconds),
            'right': np.array(right), 'frames': np.array(len(lap))}


def nees(errors: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Normalised error squared (N,) of errors (N, D) with covariances (N, D, D)."""
    return np.einsum('ni,ni->n', errors, np.linalg.solve(widths, errors[..., None])[..., 0])


def compared(
    encoder: Encoder, kind: str, seed: int, condition: str
) -> tuple[np.ndarray, np.ndarray, float]:
    """Verify correct keyframes and the most similar wrong ones.

    Returns:
        inliers and log odds of correct (A, 2) and wrong (B, 2) keyframes; median time of one, s.
    """
    place_map = town_map(drive(TownConfig(seed=seed), DAY), encoder, kind)
    lap = drive(TownConfig(seed=seed), second_lap(condition))
    made = described(lap, encoder, kind)
    verifier = Verifier(encoder, place_map, VerificationConfig(kind=kind, candidates=20,
                                                               budget_s=10.0))
    right, wrong, seconds = [], [], []
    for n in range(0, len(lap), STEP):
        good, bad = candidates(place_map, made.descriptors[n], lap, n)
        start = time.perf_counter()
        found = verifier.verify(made.features(n), [*good, *bad])
        seconds.append((time.perf_counter() - start) / max(len(found), 1))
        for one in found:
            (right if one.keyframe_id in good else wrong).append((one.inliers, one.log_odds))
    place_map.close()
    return np.array(right), np.array(wrong), float(np.median(seconds))


def candidates(
    place_map: PlaceMap, row: np.ndarray, lap: TownDrive, n: int
) -> tuple[list[int], list[int]]:
    """Two correct keyframes and the four most similar wrong ones."""
    _, ids = place_map.search(row, 50)
    metres, radians = distance(place_map.T_map_cam, lap.T_map_cam[n])
    good = [int(k) for k in [*ids, *np.argsort(metres)]
            if metres[k] < PLACE_M and radians[k] < PLACE_RAD][:2]
    return good, [int(k) for k in ids if metres[k] > OTHER_M][:4]


def extraction_s(encoder: Encoder, kind: str) -> float:
    """Median additional time for local features, s."""
    lap = drive(TownConfig(seed=SEEDS[0]), second_lap(CONDITIONS[0]))
    extractor, costs = LocalExtractor(kind, encoder), []
    for n in range(TIMED):
        rgb = lap.rgb(n)
        start = time.perf_counter()
        encoder.describe(rgb)
        middle = time.perf_counter()
        extractor.describe(rgb)
        costs.append(time.perf_counter() - middle - (middle - start))
    return float(np.median(costs[3:]))


def fit(encoder: Encoder) -> None:
    """Learn the log odds of inliers, and print the values for `LOG_ODDS`."""
    from sklearn.linear_model import LogisticRegression

    for kind in ('patch', 'xfeat'):
        right, wrong = scenes(encoder, kind)
        for condition in CONDITIONS:
            good, bad, _ = compared(encoder, kind, 7, condition)
            right, wrong = [*right, *good[:, 0]], [*wrong, *bad[:, 0]]
        x = np.log1p(np.array([*right, *wrong]))[:, None]
        y = np.arange(len(x)) < len(right)
        model = LogisticRegression(C=0.1, class_weight='balanced').fit(x, y)
        slope = float(model.coef_[0, 0])
        print(f'{kind}: ({slope:.2f}, {-float(model.intercept_[0]) / slope:.2f})  '
              f'{len(right)} right, {len(wrong)} wrong')


def scenes(encoder: Encoder, kind: str) -> tuple[list[float], list[float]]:
    """Numbers of inliers between photos of one scene, and between photos of different scenes."""
    files = sorted(SCENES.glob('*.jpg'))
    extractor = LocalExtractor(kind, encoder)
    features = [extractor.describe(read(file))[1] for file in files]
    counts: tuple[list[float], list[float]] = ([], [])
    for i, query in enumerate(features):
        for j, reference in enumerate(features):
            if i != j:
                pairs = match_features(query, reference)
                view = uncalibrated(query.xy[pairs[0]], refined(query, reference, pairs),
                                    ERROR_SHARE[kind] * query.width)
                counts[i // 3 != j // 3].append(view.count)
    return counts


def metrics_of(encoder: Encoder, kind: str) -> list[Metric]:
    """All figures of one kind of features."""
    runs = [localized(encoder, kind, seed, condition) for seed in SEEDS
            for condition in CONDITIONS]
    errors, widths, verified, seconds, right = (
        np.concatenate([run[key] for run in runs])
        for key in ('errors', 'widths', 'verified', 'seconds', 'right'))
    frames = sum(int(run['frames']) for run in runs)
    position = nees(errors[:, :3], widths[:, :3, :3])
    rotation = nees(errors[:, 3:], widths[:, 3:, 3:])
    metres = np.linalg.norm(errors[:, :3], axis=1)
    limit = chi2.ppf(0.95, 3)
    scope = (f'towns {", ".join(map(str, SEEDS))}, {" and ".join(CONDITIONS)}, {frames} images, '
             f'verification {kind}')
    by_run = ', '.join(f'{nees(r["errors"][:, :3], r["widths"][:, :3, :3]).mean() / 3:.2f}'
                       for r in runs)
    out = [
        Metric(metric=f'{kind}_precision', value=float(right.mean()), unit='', target=0.99,
               scope=scope),
        Metric(metric=f'{kind}_recall', value=float(right.sum() / frames), unit='', scope=scope),
        Metric(metric=f'{kind}_verified_share', value=float(verified.mean()), unit='',
               scope=scope),
        Metric(metric=f'{kind}_error_median_m', value=float(np.median(metres)), unit='m',
               higher_is_better=False, scope=scope),
        Metric(metric=f'{kind}_error_p95_m', value=float(np.percentile(metres, 95)), unit='m',
               higher_is_better=False, scope=scope),
        Metric(metric=f'{kind}_nees_position', value=float(position.mean() / 3), unit='of dof',
               scope=f'{scope}; honest: 0.5 to 1.5; each lap: {by_run}'),
        Metric(metric=f'{kind}_cover_position', value=float((position < limit).mean()), unit='',
               scope=f'{scope}; share within the 95 % region; honest: 0.90 to 0.99'),
        Metric(metric=f'{kind}_nees_rotation', value=float(rotation.mean() / 3), unit='of dof',
               scope=scope),
        Metric(metric=f'{kind}_cover_rotation', value=float((rotation < limit).mean()), unit='',
               scope=scope),
        Metric(metric=f'{kind}_search_to_pose_ms', value=1e3 * float(np.median(seconds)),
               unit='ms', higher_is_better=False, scope=f'{scope}; without describing'),
    ]
    if kind == 'none':
        return out
    pairs = [compared(encoder, kind, SEEDS[0], condition) for condition in CONDITIONS]
    good, bad = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
    town = f'town {SEEDS[0]}; {len(good)} right and {len(bad)} most similar wrong keyframes'
    return [
        *out,
        Metric(metric=f'{kind}_right_accepted', value=float((good[:, 1] > 0).mean()), unit='',
               scope=town),
        Metric(metric=f'{kind}_wrong_accepted', value=float((bad[:, 1] > 0).mean()), unit='',
               higher_is_better=False, scope=town),
        Metric(metric=f'{kind}_verify_ms', value=1e3 * float(np.median([p[2] for p in pairs])),
               unit='ms', higher_is_better=False, scope='one candidate'),
        Metric(metric=f'{kind}_extract_ms', value=1e3 * extraction_s(encoder, kind), unit='ms',
               higher_is_better=False, scope='320 x 240, beside the descriptor'),
    ]


def main() -> None:
    """Measure and write the result file, or fit."""
    encoder = load_encoder(os.environ.get('MODEL', 'gem_vits14'), 'cpu')
    if '--fit' in sys.argv[1:]:
        fit(encoder)
        return
    metrics = [metric for kind in KINDS for metric in metrics_of(encoder, kind)]
    for metric in metrics:
        print(f'{metric.metric:28} {metric.value:8.3f} {metric.unit}  {metric.scope[-60:]}')
    if 7 not in SEEDS:
        print(write('verification', metrics))


if __name__ == '__main__':
    main()
