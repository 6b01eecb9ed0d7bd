"""Animation for the README: plan of the map, camera image beside its match, state of the node."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from regvpr_ros.msg import PlaceMatches

from examples.demo_watch import Result, STATES, Watch

WIDTH, HEIGHT = 760, 372
PLAN = (12, 44, 436, 360)
CAMERA, KEYFRAME = (452, 66, 748, 204), (452, 226, 748, 364)
INK, FAINT, PAPER, FIELD = '#1f2328', '#8b949e', '#ffffff', '#f3f4f6'
COLOURS = {PlaceMatches.LOCALIZED: '#00795a', PlaceMatches.AMBIGUOUS: '#b35900'}
LEGEND = 22
FRAMES = 60
FRAME_MS = 120
COLOURS_USED = 96


def write_gif(path: Path, watch: Watch, images: dict[int, np.ndarray]) -> None:
    """Write an animation of the drive.

    Args:
        path: of the .gif file.
        watch: results of the node, with map and truth.
        images: image (H, W, 3) uint8 RGB of each drawn stamp.
    """
    results = [watch.results[stamp] for stamp in sorted(images)]
    plan = _Plan(watch)
    frames = [_frame(watch, plan, result, images[result.stamp_ns], results[:number + 1])
              for number, result in enumerate(results)]
    # All frames share a palette, so that unchanged areas take no bytes.
    palette = frames[len(frames) // 2].quantize(COLOURS_USED)
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE)
                    for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=FRAME_MS, loop=0, optimize=True)


def drawn_stamps(watch: Watch) -> list[int]:
    """The stamps of the images that are drawn, evenly spread."""
    stamps = sorted(watch.results)
    return [stamps[int(i)] for i in np.unique(np.linspace(0, len(stamps) - 1, FRAMES).round())]


class _Plan:
    """Conversion from metres in the map to pixels of the plan."""

    def __init__(self, watch: Watch) -> None:
        self.places = watch.map.T_map_cam[:, :2, 3]
        low, high = self.places.min(axis=0), self.places.max(axis=0)
        # The legend is below the plan.
        size = np.array([PLAN[2] - PLAN[0], PLAN[3] - PLAN[1] - LEGEND]) - 28
        self._scale = float((size / np.maximum(high - low, 1.0)).min())
        self._middle = (low + high) / 2
        self._centre = np.array([PLAN[0] + PLAN[2], PLAN[1] + PLAN[3] - LEGEND]) / 2

    def __call__(self, xy: np.ndarray) -> np.ndarray:
        return self._centre + self._scale * (xy - self._middle) * (1.0, -1.0)


def _frame(watch: Watch, plan: _Plan, result: Result, rgb: np.ndarray,
           so_far: Sequence[Result]) -> Image.Image:
    image = Image.new('RGB', (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    colour = COLOURS.get(result.state, FAINT)
    state = STATES[result.state]
    sure = result.state == PlaceMatches.LOCALIZED
    told = f'{state}, probability {result.probability:.2f}' if sure else state
    if sure and result.T_prior is not None:
        error = float(np.linalg.norm(result.T_prior[:3, 3] - result.T_truth[:3, 3]))
        told += f', {error:.1f} m from the truth'
    draw.ellipse((14, 16, 26, 28), fill=colour)
    draw.text((34, 11), told, INK, _font(17))
    draw.rectangle(PLAN, fill=FIELD)
    _dots(draw, plan(plan.places), 1, '#c3c9d1')
    for one in so_far:
        if one.state == PlaceMatches.LOCALIZED:
            _dots(draw, plan(one.T_truth[None, :2, 3]), 2, '#00795a' if one.right else '#b3261e')
    here = plan(result.T_truth[None, :2, 3])
    if sure:
        _dots(draw, plan(plan.places[result.reference][None]), 7, '#0b57d0')
    _dots(draw, here, 5, INK)
    draw.text((PLAN[0] + 8, PLAN[3] - 22), 'grey: map   black: robot   blue: match', FAINT,
              _font(12))
    _picture(image, rgb, CAMERA, 'camera, now')
    keyframe = watch.map.thumbnail(result.reference) if sure else None
    _picture(image, keyframe, KEYFRAME, 'keyframe of the map' if sure else 'no match believed')
    return image


def _dots(draw: ImageDraw.ImageDraw, points: Iterable[np.ndarray], radius: float, fill: str
          ) -> None:
    for x, y in points:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _picture(image: Image.Image, rgb: np.ndarray | None, box: tuple[int, int, int, int],
             title: str) -> None:
    draw = ImageDraw.Draw(image)
    draw.text((box[0], box[1] - 18), title, INK, _font(13))
    draw.rectangle(box, fill=FIELD)
    if rgb is None:
        return
    width, height = box[2] - box[0], box[3] - box[1]
    picture = Image.fromarray(rgb)
    scale = max(width / picture.width, height / picture.height)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    image.paste(picture.crop((left, top, left + width, top + height)), box[:2])


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
