"""Plots of the drive before and after the correction."""

from pathlib import Path

import matplotlib
import numpy as np

from examples.pose_graph.drive import Drive
from examples.pose_graph.error import aligned

matplotlib.use('Agg')
from matplotlib import pyplot

MARGIN_M = 12.0


def draw(
    drive: Drive, solutions: dict[str, np.ndarray], summary: dict[str, float], path: Path
) -> None:
    """Plot odometry, the corrected drive, and that with a wrong closure, each with the truth."""
    figure, panels = pyplot.subplots(1, 3, figsize=(11, 4.2), dpi=90, layout='constrained',
                                     sharex=True, sharey=True)
    truth = drive.T_true_base
    shown = (('odometry', 'odometry', summary['ate_odometry_m']),
             ('closed', 'with our loop closures', summary['ate_closed_m']),
             ('with a wrong closure', 'a wrong one injected', summary['ate_with_wrong_m']))
    low, high = truth[:, :2, 3].min(axis=0) - MARGIN_M, truth[:, :2, 3].max(axis=0) + MARGIN_M
    for axes, (name, title, error) in zip(panels, shown, strict=True):
        poses = aligned(solutions[name], truth)[:, :2, 3]
        axes.plot(*truth[:, :2, 3].T, color='0.7', lw=3, label='truth')
        if name != 'odometry':
            for one in drive.closures:
                colour = 'tab:green' if one.verified else 'tab:olive'
                axes.plot(*poses[[one.reference, one.query]].T, 'o', ms=3, color=colour)
        axes.plot(*poses.T, color='tab:red' if name == 'odometry' else 'tab:blue', lw=1.2,
                  label='estimate')
        axes.set(xlabel='x (m)', aspect='equal', xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        axes.set_title(f'{title}: ATE {error:.2f} m', fontsize=10)
    believed = aligned(solutions['wrong closure believed'], truth)[:, :2, 3]
    panels[2].plot(*believed.T, ':', color='tab:orange', lw=1,
                   label=f'had it been believed: {summary["ate_wrong_believed_m"]:.0f} m')
    panels[2].legend(loc='upper right', fontsize=8)
    panels[0].set_ylabel('y (m)')
    panels[0].legend(loc='best', fontsize=8)
    figure.savefig(path)
    pyplot.close(figure)
