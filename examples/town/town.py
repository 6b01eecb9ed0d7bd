"""The town: drive laps through it and look at it from anywhere."""

from collections.abc import Iterator
from dataclasses import dataclass

from examples.town.camera import Camera, Floats, Image
from examples.town.cars import Traffic
from examples.town.conditions import LOOKS
from examples.town.config import LapConfig, TownConfig
from examples.town.drive import Drive
from examples.town.layout import build_district, District
from examples.town.lens import Lens
from examples.town.route import plan, Route
from examples.town.scene import Buffers, Scene
from examples.town.sky import Sky

START_NS = 1_780_300_800_000_000_000  # 2026-06-01 08:00:00 UTC


@dataclass(frozen=True, slots=True)
class Frame:
    """One image and where it was taken.

    Attributes:
        stamp_ns: Time in ns.
        image: (H, W, 3) uint8 RGB.
        T_map_base: (4, 4) true pose of base_link.
        T_odom_base: (4, 4) drifting odometry, the identity at the first frame.
    """

    stamp_ns: int
    image: Image
    T_map_base: Floats
    T_odom_base: Floats


class Town:
    """A seeded town of two districts; 'unmapped' routes run in the second one.

    Houses are painted when they come into sight and kept, so the first frames are slower.
    """

    def __init__(self, config: TownConfig) -> None:
        self.config = config
        self.camera = Camera.from_hfov(config.width, config.height, config.hfov_rad)
        self._districts: dict[int, District] = {}
        self._scenes: dict[tuple[int, str], Scene] = {}

    def drive(self, lap: LapConfig, *, start_ns: int = START_NS) -> Iterator[Frame]:
        """Drive a lap and render what the camera sees, one frame at a time.

        Args:
            lap: The lap.
            start_ns: Stamp of the first frame in ns.
        """
        drive = Drive(self.config, lap, start_ns)
        lens = Lens(LOOKS[lap.condition], self.config.width, self.config.height, lap.seed)
        sky = Sky(LOOKS[lap.condition], lap.seed)
        traffic: dict[int, Traffic] = {}
        for number in range(drive.frames):
            tick = drive.tick_of_frame(number)
            district = drive.district[tick]
            if district not in traffic:
                traffic[district] = Traffic(
                    self.config, self.district(district), lap.seed, lap.cars
                )
            pose = drive.T_map_base[tick]
            time_s = (drive.stamp_ns[tick] - start_ns) * 1e-9
            cars = traffic[district].faces(
                time_s, pose[:2, 3], drive.route[tick], drive.along_m[tick]
            )
            light, _ = self._scene(district, lap.condition).render(pose, sky, cars)
            image = lens.expose(light, number)
            yield Frame(drive.stamp_ns[tick], image, pose, drive.T_odom_base[tick])

    def route(self, name: str = 'mapped', *, reverse: bool = False) -> Route:
        """The path of a route; 'closed-loop' is the mapped one."""
        return plan(self.config, name, reverse=reverse)

    def district(self, number: int) -> District:
        """The buildings and props of district 0 (mapped) or 1 (unmapped)."""
        if number not in self._districts:
            self._districts[number] = build_district(self.config, number)
        return self._districts[number]

    def buffers(self, T_map_base: Floats) -> Buffers:
        """Exact depth and wall of each pixel of the bare walls and ground at a pose."""
        edge = self.config.blocks_x * self.config.pitch_m + 80.0
        return self._scene(int(T_map_base[0, 3] > edge), 'day').buffers(T_map_base)

    def _scene(self, district: int, condition: str) -> Scene:
        key = district, condition
        if key not in self._scenes:
            self._scenes[key] = Scene(self.config, self.district(district), LOOKS[condition])
        return self._scenes[key]
