"""The node: camera images in, place matches, pose priors and loop closures out."""

import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
import sys
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
import numpy as np
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from regvpr_core.config import nearest
from regvpr_core.errors import BagError, ConfigError, ImageError, MapError, RegvprError
from regvpr_core.geometry import inverse
from regvpr_core.localization.localizer import Localization, Localizer, State
from regvpr_core.models.encoder import Encoder, load_encoder
from regvpr_core.places.place_map import PlaceMap
from regvpr_ros import markers
from regvpr_ros.conversions import pose_T, stamp_ns
from regvpr_ros.debug_image import debug_image
from regvpr_ros.decoders import choose_decoder
from regvpr_ros.extrinsics import TransformListener
from regvpr_ros.health import diagnostic, Health
from regvpr_ros.mailbox import Mailbox, OdometryBuffer
from regvpr_ros.msg import LocalizationStatus, PlaceMatch, PlaceMatches
from regvpr_ros.parameters import declared, LIVE, NodeConfig, to_config
from regvpr_ros.pipeline import Arrival, moments, Pipeline, View
from regvpr_ros.session_recorder import SessionRecorder
from regvpr_ros.slam_outputs import base_closure, loop_closure, place_matches, pose_prior
from regvpr_ros.srv import LoadMap, SaveMap
from regvpr_ros.stacks import make_stacks, Stack
from regvpr_ros.stacks.trail import Trail
from regvpr_ros.tf_broadcast import TransformBroadcast

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
        self._session: SessionRecorder | None = None
        self._encoder: Encoder | None = None
        self._config: NodeConfig | None = None
        self._served: list[Any] = []
        self._lifecycle_publishers: list[Any] = []
        self._plain_publishers: list[Any] = []
        self._transforms: TransformListener | None = None
        self._broadcast: TransformBroadcast | None = None
        self._stacks: list[Stack] = []
        self._inputs: list[Any] = []
        self._clocks: list[Any] = []
        self._swap = threading.Lock()
        # Services may take their time (a map is read): an executor of several threads lets images
        # and odometry come in meanwhile.
        self._slow = MutuallyExclusiveCallbackGroup()
        self.add_on_set_parameters_callback(self._on_set_parameters)

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
        self._config = config = self._read_config()
        self._encoder = self._load_encoder()
        if config.mode != 'loop_closure':
            self._localizer = self._open(config.map)
        if config.mode != 'localize':
            self._session = SessionRecorder(self._encoder, config.session, config.session_path)
        self._health = Health()
        self._odometry = OdometryBuffer(ODOMETRY_HORIZON_S, config.odometry_gap_s)
        self._trail = Trail()
        self._odom_frame = config.odom_frame
        self._transforms = TransformListener(self)
        decode, decoder = choose_decoder()
        self.get_logger().info(f'pixels by {decoder}')
        self._pipeline = Pipeline(
            config, decode, self._parse, self._transforms, self._odometry, self._trail,
            self._health, self.get_logger().info, self._refuse)
        if config.broadcast_tf:
            self._broadcast = TransformBroadcast(self)
        self._stacks = make_stacks(config.outputs, self, self._trail)
        self._pub_matches = self.create_lifecycle_publisher(PlaceMatches, '~/matches', RELIABLE)
        self._pub_prior = self.create_lifecycle_publisher(
            PoseWithCovarianceStamped, '~/pose_prior', RELIABLE)
        self._pub_initial = self.create_lifecycle_publisher(
            PoseWithCovarianceStamped, 'initialpose', RELIABLE)
        self._pub_loops = self.create_lifecycle_publisher(
            PlaceMatch, '~/loop_closures', RELIABLE)
        self._lifecycle_publishers = [self._pub_matches, self._pub_prior, self._pub_initial,
                                      self._pub_loops]
        self._pub_status = self.create_publisher(LocalizationStatus, '~/status', LATCHED)
        self._pub_diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', RELIABLE)
        self._pub_debug = self.create_publisher(CompressedImage, '~/debug/compressed', 1)
        self._pub_markers = self.create_publisher(MarkerArray, '~/markers', RELIABLE)
        self._plain_publishers = [self._pub_status, self._pub_diagnostics, self._pub_debug,
                                  self._pub_markers]
        self._drawn: tuple[Any, ...] = ()
        self._served = [
            self.create_service(kind, name, callback, callback_group=self._slow)
            for kind, name, callback in (
                (LoadMap, '~/load_map', self._on_load_map),
                (SaveMap, '~/save_map', self._on_save_map),
                (Trigger, '~/reset', self._on_reset),
                (Trigger, '~/localize_once', self._on_localize_once))]
        self._forget('configured')

    def _activate(self) -> None:
        config = self._config
        self._mailbox: Mailbox[Arrival] = Mailbox()
        self._health = self._pipeline.health = Health()
        self._start_anew()
        self._pipeline.reset()
        self._odometry.clear()
        self._trail.clear()
        self._forget('active')
        self._worker = threading.Thread(target=self._work, name='regvpr', daemon=True)
        self._worker.start()
        overridable = QoSOverridingOptions.with_default_policies()
        for camera in config.cameras:
            compressed = config.is_compressed(camera)
            topic = f'{camera}/image' if camera else 'image'
            # Bytes, so that an image that a newer one replaces is never unpacked.
            self._inputs.append(self.create_subscription(
                CompressedImage if compressed else Image,
                f'{topic}/compressed' if compressed else topic, self._image_callback(camera),
                NEWEST_IMAGE, qos_overriding_options=overridable, raw=True))
        if config.use_odometry:
            self._inputs.append(self.create_subscription(
                Odometry, 'odom', self._on_odometry, SENSOR, qos_overriding_options=overridable))
        self._clocks = [self.create_timer(DIAGNOSTICS_PERIOD_S, self._on_diagnostics)]
        if self._broadcast is not None:
            self._clocks.append(self.create_timer(
                TransformBroadcast.PERIOD_S, self._broadcast.repeat))

    def _stop(self) -> None:
        """Undo _activate, as far as it came."""
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        for timer in self._clocks:
            self.destroy_timer(timer)
        self._inputs, self._clocks = [], []
        if self._worker is not None:
            self._mailbox.close()
            self._worker.join()
            self._worker = None
        if self._broadcast is not None:
            self._broadcast.forget()

    def _release(self) -> None:
        """Undo _configure, as far as it came."""
        for service in self._served:
            self.destroy_service(service)
        for publisher in self._lifecycle_publishers:
            self.destroy_lifecycle_publisher(publisher)
        for publisher in self._plain_publishers:
            self.destroy_publisher(publisher)
        for stack in self._stacks:
            stack.close()
        self._served, self._lifecycle_publishers, self._plain_publishers = [], [], []
        self._stacks, self._broadcast = [], None
        if self._transforms is not None:
            self._transforms.close()
            self._transforms = None
        with self._swap:
            if self._localizer is not None:
                self._localizer.place_map.close()
            if self._session is not None:
                try:
                    self._session.close()
                except MapError as error:
                    self.get_logger().error(f'session: {error}')
            self._localizer, self._session = None, None
            self._encoder, self._config = None, None

    # -- callbacks: they store and return ------------------------------------------------------

    def _image_callback(self, camera: str) -> Callable[[bytes], None]:
        def on_image(raw: bytes) -> None:
            self._health.image_arrived()
            self._mailbox.put(Arrival(raw, time.monotonic()), camera)

        return on_image

    def _on_odometry(self, message: Odometry) -> None:
        try:
            stamp, T_odom_base = stamp_ns(message.header.stamp), pose_T(message.pose.pose)
        except BagError as error:
            self._refuse('odometry', str(error))
            return
        self._health.odometry_at = time.monotonic()
        self._odom_frame = self._config.odom_frame or message.header.frame_id
        self._odometry.put(stamp, T_odom_base)
        self._trail.put(stamp, T_odom_base)

    def _on_diagnostics(self) -> None:
        config, place_map = self._config, self._place_map
        state = self._told[0].name.lower() if self._told else ''
        level, text = self._health.level(config.image_timeout_s, config.use_odometry)
        values = self._health.values(self._mailbox.dropped) | {
            'state': state, 'mode': config.mode,
            'map': '' if place_map is None else str(place_map.path),
            'keyframes': '' if place_map is None else str(len(place_map)),
            'session keyframes': '' if self._session is None else str(len(self._session)),
            'model': self._encoder.name,
            'device': str(self._encoder.device), 'precision': self._encoder.precision,
        }
        message = DiagnosticArray(status=[diagnostic(
            f'{self.get_fully_qualified_name()}: localization', level, text or state, values)])
        message.header.stamp = self.get_clock().now().to_msg()
        self._pub_diagnostics.publish(message)
        if place_map is not None:
            self._draw_map(place_map)

    def _on_set_parameters(self, parameters: list[Any]) -> SetParametersResult:
        """Live parameters take effect now; the others wait for the next configure."""
        mine = {p.name: p.value for p in parameters if p.name in self._names()}
        config = self._config
        fixed = sorted(name for name in mine if name not in LIVE)
        if config is not None and fixed:
            return SetParametersResult(successful=False, reason=(
                f'{fixed[0]} is fixed while the node is configured; clean it up, set it and '
                f'configure again'))
        try:
            changed = self._read_config(mine)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if config is not None:
            self._config = self._pipeline.config = changed
            self._pipeline.gate.change(changed.min_interval_s, changed.min_distance_m,
                                       changed.trigger == 'on_request')
        return SetParametersResult(successful=True)

    def _on_reset(self, request: Any, response: Trigger.Response) -> Trigger.Response:
        with self._swap:
            if self._config is None:
                response.message = 'the node is not configured'
                return response
            self._start_anew()
            self._pipeline.gate.reset()
            self._forget('reset')
        response.success, response.message = True, 'the belief starts anew'
        return response

    def _on_localize_once(self, request: Any, response: Trigger.Response) -> Trigger.Response:
        if self._worker is None:
            response.message = 'the node is not active'
            return response
        if self._localizer is None:
            response.message = 'there is no map: the mode is loop_closure'
            return response
        if self._config.initialpose == 'never':
            response.message = "the parameter 'initialpose' is never"
            return response
        self._fix_wanted = True
        self._pipeline.gate.ask()
        response.success = True
        response.message = 'the next localized image will be published on initialpose'
        return response

    def _on_load_map(self, request: Any, response: LoadMap.Response) -> LoadMap.Response:
        if self._localizer is None:
            response.message = 'there is no map to replace: the mode is loop_closure'
            return response
        try:
            localizer = self._open(request.path)
        except Exception as error:  # noqa: BLE001 - the map in use goes on, whatever this one is
            response.message = _line(error)
            return response
        with self._swap:
            if self._localizer is None:  # cleaned up in the meantime
                localizer.place_map.close()
                response.message = 'the node is not configured'
                return response
            self._localizer, old = localizer, self._localizer
            self._pipeline.reset()
            self._forget('map loaded')
        old.place_map.close()
        response.success, response.message = True, f'loaded {request.path}'
        response.map_id, response.keyframes = localizer.place_map.map_id, len(localizer.place_map)
        return response

    def _on_save_map(self, request: Any, response: SaveMap.Response) -> SaveMap.Response:
        path = Path(request.path).expanduser()
        try:
            if not path.is_absolute():
                raise MapError(f'{request.path!r} is no absolute path')
            if self._session is not None:
                with self._swap:
                    keyframes = self._session.save(path)
            else:
                keyframes = len(self._localizer.place_map)
                self._localizer.place_map.copy_to(path)
        except Exception as error:  # noqa: BLE001 - the node goes on, whatever the disk says
            response.message = _line(error)
            return response
        response.success, response.message = True, f'saved {path}'
        response.keyframes = keyframes
        return response

    # -- the worker ----------------------------------------------------------------------------

    def _work(self) -> None:
        while (arrivals := self._mailbox.take()) is not None:
            self._health.busy_since = time.monotonic()
            try:
                with self._swap:
                    self._look(arrivals)
            except ImageError as error:
                self._refuse('image', str(error))
            except Exception as error:  # noqa: BLE001 - one bad frame must not strand the robot
                self._refuse('internal', f'{type(error).__name__}: {error}')
            self._health.busy_since = None

    def _look(self, arrivals: dict[str, Arrival]) -> None:
        """Localize what the cameras sent, and publish what came out."""
        localizer = self._localizer
        of_map = None if localizer is None else localizer.place_map.manifest.extrinsics
        views, anew = self._pipeline.views(arrivals, of_map)
        if anew:
            self._start_anew()
        for moment in moments(views):
            descriptions: dict[str, Any] = {}
            if localizer is not None:
                # One stamp for the images of a moment, and odometry at it.
                newest = moment[-1]
                frames = [replace(view.frame, stamp_ns=newest.frame.stamp_ns) for view in moment]
                result = localizer.localize(frames, newest.T_odom_base)
                self._publish(moment, result, localizer.place_map)
                descriptions = {view.camera: one for view, one in
                                zip(moment, result.descriptions, strict=True)}
            if self._session is not None:
                self._close_loops(moment, descriptions)

    def _close_loops(self, moment: list[View], descriptions: dict[str, Any]) -> None:
        """The first camera's image against the session's own past."""
        view = next((one for one in moment if one.camera == self._config.cameras[0]), None)
        if view is None:
            return
        try:
            closures = self._session.look(view, descriptions.get(view.camera), self._odom_frame)
        except MapError as error:
            self._refuse('session', str(error))
            return
        if self._localizer is None:
            self._health.looked_at(time.monotonic() - view.arrived_s)
        for found in closures:
            self._health.loop_closures += 1
            self._pub_loops.publish(loop_closure(
                found, self._session.map_id, view.header, self._odom_frame,
                self._session.pose_of(found.reference_id)))
            closure = base_closure(found, view.frame.T_base_cam)
            for stack in self._stacks:
                stack.loop_closure(closure)
        if closures and self._pub_markers.get_subscription_count():
            self._pub_markers.publish(markers.array(markers.loops(
                self._session.edges, self._odom_frame or 'odom', view.header.stamp)))

    def _publish(self, moment: list[View], result: Localization, place_map: PlaceMap) -> None:
        view = moment[-1]
        map_frame = self._config.map_frame or place_map.manifest.map_frame
        latency_s = time.monotonic() - view.arrived_s
        self._pub_matches.publish(
            place_matches(result, place_map, [one.header for one in moment], map_frame,
                          latency_s))
        if result.pose_prior is not None:
            prior = pose_prior(result.pose_prior, view.header.stamp, map_frame)
            self._pub_prior.publish(prior)
            self._fix_stamp = view.header.stamp
            self._health.localized += 1
            if self._fix_wanted and self._config.initialpose != 'never':
                self._fix_wanted = False
                self._pipeline.gate.ask(False)
                self._pub_initial.publish(prior)
            for stack in self._stacks:
                stack.pose_prior(prior)
            if self._broadcast is not None and view.T_odom_base is not None:
                self._broadcast.send(
                    result.pose_prior.T_map_base @ inverse(view.T_odom_base), map_frame,
                    self._odom_frame)
        self._health.looked_at(latency_s)
        self._tell(result.state, result.reason, view.header.stamp)
        self._show(moment, result, place_map, map_frame)

    def _show(self, moment: list[View], result: Localization, place_map: PlaceMap,
              map_frame: str) -> None:
        """Pictures for people, made only while somebody looks."""
        best = result.matches[0] if result.matches else None
        view = moment[-1] if best is None else moment[best.view]
        if self._pub_debug.get_subscription_count():
            picture = None if best is None else place_map.thumbnail(best.keyframe_id)
            text = f'{result.state.name.lower()}: {result.reason}'
            self._pub_debug.publish(debug_image(
                view.rgb, picture, text, best is not None and best.accepted, view.header))
        if self._pub_markers.get_subscription_count():
            ids = [match.keyframe_id for match in result.matches]
            positions = place_map.T_map_cam[ids, :3, 3]
            self._pub_markers.publish(markers.array(
                markers.belief(positions, np.array([m.probability for m in result.matches]),
                               map_frame, view.header.stamp),
                markers.matches(positions, [m.accepted for m in result.matches], map_frame,
                                view.header.stamp)))

    def _draw_map(self, place_map: PlaceMap) -> None:
        """The map's keyframes, again for whoever comes to look."""
        drawn = (place_map.map_id, self._pub_markers.get_subscription_count())
        if drawn == self._drawn or not drawn[1]:
            self._drawn = drawn
            return
        self._drawn = drawn
        self._pub_markers.publish(markers.array(markers.keyframes(
            place_map.T_map_cam[:, :3, 3],
            self._config.map_frame or place_map.manifest.map_frame,
            self.get_clock().now().to_msg())))

    # -- helpers -------------------------------------------------------------------------------

    @property
    def _place_map(self) -> PlaceMap | None:
        return None if self._localizer is None else self._localizer.place_map

    def _start_anew(self) -> None:
        """Forget where the robot was and has been; what is on disk stays."""
        if self._localizer is not None:
            self._localizer.reset()
        if self._session is not None and len(self._session):
            try:
                self._session.reset()
            except MapError as error:
                self._refuse('session', str(error))

    def _parse(self, camera: str, raw: bytes) -> Any:
        kind = CompressedImage if self._config.is_compressed(camera) else Image
        try:
            return deserialize_message(raw, kind)
        except Exception as error:
            raise ImageError(f'a message of {len(raw)} bytes is no {kind.__name__}: '
                             f'{error}') from error

    def _names(self) -> set[str]:
        return {parameter.name for parameter in declared(NodeConfig)}

    def _read_config(self, changed: dict[str, Any] | None = None) -> NodeConfig:
        """The parameters as they are, some of them as they are about to be."""
        values = {name: self._value(name) for name in self._names()} | (changed or {})
        return to_config({name: _plain(value) for name, value in values.items()})

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
        self._fix_wanted = self._config.initialpose == 'first_fix'
        self._tell(State.INITIALISING, reason, self.get_clock().now().to_msg())

    def _tell(self, state: State, reason: str, stamp: Any) -> None:
        """Publish the latched status when the state or the map changed."""
        place_map = self._place_map
        told = (state, '' if place_map is None else place_map.map_id)
        if told == self._told:
            return
        self._told = told
        message = LocalizationStatus(
            state=int(state), reason=reason, fix_valid=self._fix_stamp is not None)
        message.header.stamp = stamp
        message.header.frame_id = self._config.map_frame
        if place_map is not None:
            message.map_path, message.map_id = str(place_map.path), place_map.map_id
            message.keyframes = len(place_map)
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
        return self.get_parameter(name).value


def _plain(value: Any) -> Any:
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
