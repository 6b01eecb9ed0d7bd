"""The localize node: camera images in, place matches and pose priors out."""

import array
from collections.abc import Callable
from pathlib import Path
import sys
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
import numpy as np
from rcl_interfaces.msg import ParameterDescriptor
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from regvpr_core.config import nearest
from regvpr_core.errors import BagError, ConfigError, ImageError, MapError, RegvprError
from regvpr_core.geometry import Array
from regvpr_core.localization.localizer import Frame, Localization, Localizer, State
from regvpr_core.models.encoder import Encoder, load_encoder
from regvpr_core.places.place_map import PlaceMap
from regvpr_ros.conversions import image_rgb, pose_T, stamp_ns
from regvpr_ros.extrinsics import find_extrinsics, TransformListener
from regvpr_ros.health import Health
from regvpr_ros.mailbox import Mailbox, OdometryBuffer
from regvpr_ros.msg import LocalizationStatus, PlaceMatches
from regvpr_ros.parameters import declared, NodeConfig, to_config
from regvpr_ros.slam_outputs import place_matches, pose_prior
from regvpr_ros.srv import LoadMap, SaveMap

NEWEST_IMAGE = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
SENSOR = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=10)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
DIAGNOSTICS_PERIOD_S = 1.0
ODOMETRY_HORIZON_S = 10.0
LOG_PERIOD_S = 5.0
OF_RCLPY = ('use_sim_time', 'qos_overrides', 'start_type_description_service')

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class LocalizeNode(LifecycleNode):
    """Lifecycle node. Callbacks only store; one worker thread runs the network and publishes."""

    def __init__(self, **options: Any) -> None:
        super().__init__('regvpr', **options)
        self.declare_parameter('autostart', True, ParameterDescriptor(
            description='configure and activate at start, for use without a lifecycle manager',
            read_only=True))
        for parameter in declared(NodeConfig):
            # Types are checked by to_config, which takes a whole number for a float.
            self.declare_parameter(parameter.name, parameter.default, ParameterDescriptor(
                description=parameter.description, dynamic_typing=True))
        self._worker: threading.Thread | None = None
        self._localizer: Localizer | None = None
        self._served: list[Any] = []
        self._lifecycle_publishers: list[Any] = []
        self._plain_publishers: list[Any] = []
        self._transforms: TransformListener | None = None
        self._inputs: list[Any] = []
        self._swap = threading.Lock()

    # -- transitions ---------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and the map; a wrong one fails here, with its reason in the log."""
        return self._guarded('configure', self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start listening."""
        if self._guarded('activate', self._activate) != SUCCESS:
            return FAILURE
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening; model and map stay loaded."""
        self._stop()
        self._forget('inactive')
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let model and map go."""
        self._release()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and let everything go, from any state."""
        self._stop()
        self._release()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The same; the node can then be configured again."""
        return self.on_shutdown(state)

    def _guarded(self, name: str, transition: Callable[[], None]) -> TransitionCallbackReturn:
        """Run a transition; whatever goes wrong is one line in the log, and nothing is left."""
        try:
            transition()
        except RegvprError as error:
            self.get_logger().error(f'cannot {name}: {error}')
        except Exception as error:  # noqa: BLE001 - rclpy would swallow it without a word
            self.get_logger().error(f'cannot {name}: {type(error).__name__}: {error}')
        else:
            return SUCCESS
        self._stop()
        if name == 'configure':
            self._release()
        return FAILURE

    def _configure(self) -> None:
        self._refuse_unknown_parameters()
        self._config = to_config({p.name: self._value(p.name) for p in declared(NodeConfig)})
        self._encoder = self._load_encoder()
        self._localizer = self._open(self._config.map)
        self._health = Health()
        self._odometry = OdometryBuffer(ODOMETRY_HORIZON_S, self._config.odometry_gap_s)
        self._transforms = TransformListener(self)
        self._extrinsics: dict[str, Array] = {}
        self._origins: dict[str, str] = {}
        self._pub_matches = self.create_lifecycle_publisher(PlaceMatches, '~/matches', RELIABLE)
        self._pub_prior = self.create_lifecycle_publisher(
            PoseWithCovarianceStamped, '~/pose_prior', RELIABLE)
        self._pub_initial = self.create_lifecycle_publisher(
            PoseWithCovarianceStamped, 'initialpose', RELIABLE)
        self._lifecycle_publishers = [self._pub_matches, self._pub_prior, self._pub_initial]
        self._pub_status = self.create_publisher(LocalizationStatus, '~/status', LATCHED)
        self._pub_diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', RELIABLE)
        self._plain_publishers = [self._pub_status, self._pub_diagnostics]
        self._served = [
            self.create_service(LoadMap, '~/load_map', self._on_load_map),
            self.create_service(SaveMap, '~/save_map', self._on_save_map),
            self.create_service(Trigger, '~/reset', self._on_reset),
            self.create_service(Trigger, '~/localize_once', self._on_localize_once),
        ]
        self._forget('configured')

    def _activate(self) -> None:
        self._mailbox: Mailbox[tuple[Any, float]] = Mailbox()
        self._health = Health()
        self._localizer.reset()
        self._odometry.clear()
        self._forget('active')
        self._worker = threading.Thread(target=self._work, name='regvpr', daemon=True)
        self._worker.start()
        compressed = self._config.compressed
        self._inputs = [self.create_subscription(
            CompressedImage if compressed else Image,
            'image/compressed' if compressed else 'image', self._on_image, NEWEST_IMAGE)]
        if self._config.use_odometry:
            self._inputs.append(
                self.create_subscription(Odometry, 'odom', self._on_odometry, SENSOR))
        self._timer = self.create_timer(DIAGNOSTICS_PERIOD_S, self._on_diagnostics)

    def _stop(self) -> None:
        """Undo _activate, as far as it came."""
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        if self._inputs:
            self.destroy_timer(self._timer)
        self._inputs = []
        if self._worker is not None:
            self._mailbox.close()
            self._worker.join()
            self._worker = None

    def _release(self) -> None:
        """Undo _configure, as far as it came."""
        for service in self._served:
            self.destroy_service(service)
        for publisher in self._lifecycle_publishers:
            self.destroy_lifecycle_publisher(publisher)
        for publisher in self._plain_publishers:
            self.destroy_publisher(publisher)
        self._served, self._lifecycle_publishers, self._plain_publishers = [], [], []
        if self._transforms is not None:
            self._transforms.close()
            self._transforms = None
        if self._localizer is not None:
            self._localizer.place_map.close()
        self._localizer, self._encoder = None, None

    # -- callbacks: they store and return ------------------------------------------------------

    def _on_image(self, message: Any) -> None:
        self._health.image_arrived()
        self._mailbox.put((message, time.monotonic()))

    def _on_odometry(self, message: Odometry) -> None:
        try:
            self._odometry.put(stamp_ns(message.header.stamp), pose_T(message.pose.pose))
        except BagError as error:
            self._refuse('odometry', str(error))

    def _on_diagnostics(self) -> None:
        place_map = self._localizer.place_map
        facts = {
            'state': self._told[0].name.lower() if self._told else '',
            'map': str(place_map.path), 'keyframes': str(len(place_map)),
            'model': self._encoder.name, 'device': str(self._encoder.device),
            'precision': self._encoder.precision,
        }
        message = DiagnosticArray(status=[self._health.status(
            f'{self.get_fully_qualified_name()}: localization', self._mailbox.dropped,
            self._config.image_timeout_s, facts)])
        message.header.stamp = self.get_clock().now().to_msg()
        self._pub_diagnostics.publish(message)

    def _on_reset(self, request: Any, response: Trigger.Response) -> Trigger.Response:
        with self._swap:
            self._localizer.reset()
            self._forget('reset')
        response.success, response.message = True, 'the belief starts anew'
        return response

    def _on_localize_once(self, request: Any, response: Trigger.Response) -> Trigger.Response:
        if self._worker is None:
            response.message = 'the node is not active'
            return response
        self._fix_wanted = True
        response.success = True
        response.message = 'the next localized image will be published on initialpose'
        return response

    def _on_load_map(self, request: Any, response: LoadMap.Response) -> LoadMap.Response:
        try:
            localizer = self._open(request.path)
        except Exception as error:  # noqa: BLE001 - the map in use goes on, whatever this one is
            response.message = _line(error)
            return response
        with self._swap:
            self._localizer, old = localizer, self._localizer
            self._extrinsics.clear()
            self._forget('map loaded')
        old.place_map.close()
        response.success, response.message = True, f'loaded {request.path}'
        response.map_id, response.keyframes = localizer.place_map.map_id, len(localizer.place_map)
        return response

    def _on_save_map(self, request: Any, response: SaveMap.Response) -> SaveMap.Response:
        place_map = self._localizer.place_map
        path = Path(request.path).expanduser()
        try:
            if not path.is_absolute():
                raise MapError(f'{request.path!r} is no absolute path')
            place_map.copy_to(path)
        except Exception as error:  # noqa: BLE001 - the node goes on, whatever the disk says
            response.message = _line(error)
            return response
        response.success, response.message = True, f'saved {path}'
        response.keyframes = len(place_map)
        return response

    # -- the worker ----------------------------------------------------------------------------

    def _work(self) -> None:
        while (item := self._mailbox.take()) is not None:
            try:
                self._process(*item)
            except ImageError as error:
                self._refuse('image', str(error))
            except Exception as error:  # noqa: BLE001 - one bad frame must not strand the robot
                self._refuse('internal', f'{type(error).__name__}: {error}')

    def _process(self, message: Any, arrived: float) -> None:
        """Localize one image and publish what came out."""
        # 1. Pixels, and the robot's odometry at their stamp.
        rgb = image_rgb(message)
        stamp = stamp_ns(message.header.stamp)
        odometry = None
        if self._config.use_odometry:
            odometry = self._odometry.at(stamp, self._config.odometry_wait_s)
        with self._swap:
            # 2. Localize.
            localizer = self._localizer
            frame = Frame(stamp_ns=stamp, rgb=rgb,
                          T_base_cam=self._T_base_cam(message.header.frame_id, localizer))
            result = localizer.localize(frame, odometry)
            # 3. Publish.
            self._publish(result, localizer.place_map, message.header, arrived)

    def _publish(self, result: Localization, place_map: PlaceMap, header: Any,
                 arrived: float) -> None:
        map_frame = self._config.map_frame or place_map.manifest.map_frame
        latency_s = time.monotonic() - arrived
        self._pub_matches.publish(
            place_matches(result, place_map, header, map_frame, latency_s))
        if result.pose_prior is not None:
            prior = pose_prior(result.pose_prior, header.stamp, map_frame)
            self._pub_prior.publish(prior)
            self._fix_stamp = header.stamp
            self._health.localized += 1
            if self._fix_wanted:
                self._fix_wanted = False
                self._pub_initial.publish(prior)
        self._health.processed += 1
        self._health.latencies_s.append(latency_s)
        self._tell(result.state, result.reason, header.stamp)

    def _T_base_cam(self, camera_frame: str, localizer: Localizer) -> Array:
        if camera_frame not in self._extrinsics:
            T, origin, final = find_extrinsics(
                self._config.extrinsics, self._transforms, self._config.base_frame, camera_frame,
                localizer.place_map.manifest.extrinsics)
            if origin != self._origins.get(camera_frame):
                self._origins[camera_frame] = origin
                self.get_logger().info(f'extrinsics of {camera_frame!r}: {origin}')
                localizer.reset()  # another place on the robot is no motion
            if not final:
                return T
            self._extrinsics[camera_frame] = T
        return self._extrinsics[camera_frame]

    # -- helpers -------------------------------------------------------------------------------

    def _load_encoder(self) -> Encoder:
        weights = self._config.backbone_weights
        encoder = load_encoder(self._config.model, self._config.device, self._config.precision,
                               threads=self._config.threads or None,
                               backbone_path=Path(weights) if weights else None)
        encoder.describe(np.zeros((480, 640, 3), dtype=np.uint8))  # warm, before the first image
        self.get_logger().info(f'{encoder.notice}; on {encoder.device} in {encoder.precision}')
        return encoder

    def _open(self, path: str) -> Localizer:
        if not path:
            raise MapError("parameter 'map' is empty; give the folder of a place map (map:=...)")
        place_map = PlaceMap.open(Path(path).expanduser(), fingerprint=self._encoder.fingerprint)
        self.get_logger().info(f'map {path}: {len(place_map)} keyframes')
        return Localizer(self._encoder, place_map, self._config.localizer)

    def _forget(self, reason: str) -> None:
        """Status of a node that knows nothing yet; an order for a fix is forgotten too."""
        self._told: tuple[Any, ...] = ()
        self._fix_stamp: Any = None
        self._fix_wanted = False
        self._tell(State.INITIALISING, reason, self.get_clock().now().to_msg())

    def _tell(self, state: State, reason: str, stamp: Any) -> None:
        """Publish the latched status when the state or the map changed."""
        place_map = self._localizer.place_map
        told = (state, place_map.map_id)
        if told == self._told:
            return
        self._told = told
        message = LocalizationStatus(
            state=int(state), reason=reason, map_path=str(place_map.path),
            map_id=place_map.map_id, keyframes=len(place_map),
            fix_valid=self._fix_stamp is not None)
        message.header.stamp = stamp
        message.header.frame_id = self._config.map_frame or place_map.manifest.map_frame
        if self._fix_stamp is not None:
            message.last_fix_stamp = self._fix_stamp
        self._pub_status.publish(message)

    def _refuse_unknown_parameters(self) -> None:
        """A misspelt parameter must not pass in silence."""
        known = {'autostart', *(p.name for p in declared(NodeConfig))}
        for name in self._parameter_overrides:
            if name not in known and not name.startswith(OF_RCLPY):
                raise ConfigError(f'unknown parameter {name!r}{nearest(name, known)}')

    def _refuse(self, cause: str, text: str) -> None:
        self._health.refused(cause, text)
        self.get_logger().warning(f'bad {cause}: {text}', throttle_duration_sec=LOG_PERIOD_S)

    def _value(self, name: str) -> Any:
        value = self.get_parameter(name).value
        return list(value) if isinstance(value, (array.array, tuple)) else value


def _line(error: Exception) -> str:
    """One line about what went wrong."""
    text = ' '.join(str(error).split())
    return text if isinstance(error, RegvprError) else f'{type(error).__name__}: {text}'


def main(arguments: list[str] | None = None) -> int:
    """Run the node; exit code 1 where it cannot start."""
    rclpy.init(args=arguments)
    node = LocalizeNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.get_parameter('autostart').value and not _start(node):
            return 1
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.on_shutdown(None)
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _start(node: LocalizeNode) -> bool:
    return (node.trigger_configure() == SUCCESS) and (node.trigger_activate() == SUCCESS)


if __name__ == '__main__':
    sys.exit(main())
