"""Draw docs/images/frames.png: the frames, the sources of their transforms, and the node's poses.

From the root: python -m tools.make_frames_picture"""

from pathlib import Path

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

PATH = Path(__file__).resolve().parent.parent / 'docs' / 'images' / 'frames.png'
GREY, BLUE, GREEN = '#555555', '#0072b2', '#009e73'
Y = 1.0
FRAMES = (('map', 0.0), ('odom', 3.4), ('base_link', 6.8), ('camera_optical', 10.2))
LINKS = (('map', 'odom', 'TF, off by default\n(broadcast_tf: this node)', GREEN),
         ('odom', 'base_link', "TF and odom:\nthe robot's odometry", GREY),
         ('base_link', 'camera_optical', 'TF, extrinsics,\nor as the map has it', GREY))
OWN = (('map', 'base_link', '~/pose_prior: pose of base_frame in map_frame', 1.35, BLUE),
       ('map', 'camera_optical', '~/matches: reference_pose, the camera of a keyframe', 2.3, BLUE))


def main() -> None:
    figure, axes = pyplot.subplots(figsize=(10.5, 4.0), dpi=110)
    at = dict(FRAMES)
    for name, x in FRAMES:
        axes.add_patch(FancyBboxPatch((x - 0.85, Y - 0.26), 1.7, 0.52, facecolor='white',
                                      boxstyle='round,pad=0.06', edgecolor='black', linewidth=1.5))
        axes.text(x, Y, name, ha='center', va='center', family='monospace', fontsize=10)
    for parent, child, text, color in LINKS:
        arrow(axes, (at[parent] + 0.92, Y), (at[child] - 0.92, Y), color, 0.0)
        axes.text((at[parent] + at[child]) / 2, Y - 0.42, text, ha='center', va='top', fontsize=8,
                  color=color)
    for parent, child, text, height, color in OWN:
        start, end = (at[parent], Y + 0.34), (at[child], Y + 0.34)
        arrow(axes, start, end, color, -2.0 * height / (at[child] - at[parent]))
        axes.text((at[parent] + at[child]) / 2, Y + 0.22 + height, text, ha='center', va='top',
                  fontsize=9, color=color)
    axes.set_xlim(-1.2, 11.6)
    axes.set_ylim(-0.25, 4.1)
    axes.axis('off')
    figure.tight_layout(pad=0.2)
    figure.savefig(PATH, metadata={'Software': None})


def arrow(axes, start, end, color, bend) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle='-|>', mutation_scale=14, color=color,
                                   linewidth=1.6, connectionstyle=f'arc3,rad={bend:.3f}'))


if __name__ == '__main__':
    main()
