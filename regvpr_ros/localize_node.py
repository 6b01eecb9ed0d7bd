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
from nav_msgs.msg import Odometry
import numpy as np
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
import rclpy
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.exceptions import InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import Trigger

from regvpr_core.config import nearest
from regvpr_core.errors import BagError, ConfigError, ImageError, MapError, RegvprError
from regvpr_core.localization.localizer import Localizer
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import Encoder, load_encoder
from regvpr_core.recordings.messages import pose_T, stamp_ns
from regvpr_ros import interfaces
from regvpr_ros.announcer import Announcer
from regvpr_ros.background import Background, Turn
from regvpr_ros.camera_infos import CameraInfos
from regvpr_ros.decode_ahead import Arrival, DecodeAhead
from regvpr_ros.decoders import choose_decoder
from regvpr_ros.extrinsics import TransformListener
from regvpr_ros.health import diagnostic, Health
from regvpr_ros.image_parser import ImageParser
from regvpr_ros.interfaces import of_camera, Topic
from regvpr_ros.mailbox import Mailbox, OdometryBuffer
from regvpr_ros.parameters import declared, LIVE, NodeConfig, Parameter, to_config
from regvpr_ros.pipeline import moments, Pipeline, View
from regvpr_ros.process import tune_process
from regvpr_ros.session_recorder import SessionRecorder
from regvpr_ros.srv import LoadMap, SaveMap
from regvpr_ros.stacks import make_stacks, Stack
from regvpr_ros.stacks.trail import Trail
from regvpr_ros.tf_broadcast import TransformBroadcast

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
            self._declare(parameter)
        self._worker: threading.Thread | None = None
        self._ahead: DecodeAhead | None = None
        self._localizer: Localizer | None = None
        self._session: SessionRecorder | None = None
        self._encoder: Encoder | None = None
        self._config: NodeConfig | None = None
        self._publish: dict[str, Any] = {}
        self._transforms: TransformListener | None = None
        self._broadcast: TransformBroadcast | None = None
        self._stacks: list[Stack] = []
        self._inputs: list[Any] = []
        self._clocks: list[Any] = []
        # Held while an image is worked on, and while what it is worked on with is exchanged.
        self._swap = Turn()
        self._background = Background()
        # They live as long as the node, so that a slow answer always finds its service.
        answers: dict[str, Callable[..., Any]] = {
            interfaces.LOAD_MAP.name: self._load_map, interfaces.SAVE_MAP.name: self._save_map,
            interfaces.RESET.name: self._reset,
            interfaces.LOCALIZE_ONCE.name: self._localize_once}
        for service in interfaces.SERVICES:
            answer = answers[service.name]
            self.create_service(service.kind, service.name,
                                self._beside(answer) if service.slow else answer,
                                callback_group=ReentrantCallbackGroup())
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
        self._announcer.forget('inactive', self._place_map)
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
        self._infos = CameraInfos()
        if config.mode != 'loop_closure':
            self._localizer = self._open(config.map)
        if config.mode != 'localize':
            self._session = SessionRecorder(self._encoder, config.session, config.session_path,
                                            self._infos.for_session)
        self._health = Health()
        self._odometry = OdometryBuffer(ODOMETRY_HORIZON_S, config.odometry_gap_s)
        self._trail = Trail()
        self._odom_frame = config.odom_frame
        self._transforms = TransformListener(self)
        decode, decoder = choose_decoder()
        self.get_logger().info(f'pixels by {decoder}')
        self._pipeline = Pipeline(
            config, decode, ImageParser(config.is_compressed), self._transforms,
            self._odometry, self._infos, self._trail, self._health, self.get_logger().info,
            self._refuse)
        if config.broadcast_tf:
            self._broadcast = TransformBroadcast(self)
        self._stacks = make_stacks(config.outputs, self, self._trail)
        for topic in interfaces.OUTPUTS:
            create = self.create_lifecycle_publisher if topic.managed else self.create_publisher
            self._publish[topic.name] = create(topic.kind, topic.name, _qos(topic))
        self._announcer = Announcer(
            config, self._publish, lambda: self.get_clock().now().to_msg(), self._health,
            self._stacks, self._broadcast, lambda: self._pipeline.gate.ask(False))
        self._announcer.forget('configured', self._place_map)

    def _activate(self) -> None:
        config = self._config
        self._mailbox: Mailbox[Arrival] = Mailbox()
        self._health = self._pipeline.health = self._announcer.health = Health()
        self._start_anew()
        self._pipeline.reset()
        self._odometry.clear()
        self._trail.clear()
        self._announcer.forget('active', self._place_map)
        self._ahead = DecodeAhead(self._pipeline.pixels)
        self._worker = threading.Thread(target=self._work, name='regvpr', daemon=True)
        self._worker.start()
        for camera in config.cameras:
            # Bytes, so that an image that a newer one replaces is never unpacked.
            self._listen(interfaces.COMPRESSED if config.is_compressed(camera)
                         else interfaces.IMAGE, self._image_callback(camera), camera)
            if config.wants_intrinsics:
                self._listen(interfaces.CAMERA_INFO, self._info_callback(camera), camera)
        if config.use_odometry:
            self._listen(interfaces.ODOM, self._on_odometry, raw=False)
        self._clocks = [self.create_timer(DIAGNOSTICS_PERIOD_S, self._on_diagnostics)]
        if self._broadcast is not None:
            self._clocks.append(self.create_timer(
                TransformBroadcast.PERIOD_S, self._broadcast.repeat))

    def _listen(self, topic: Topic, callback: Callable[[Any], None], camera: str = '',
                raw: bool = True) -> None:
        self._inputs.append(self.create_subscription(
            topic.kind, of_camera(camera, topic), callback, _qos(topic), raw=raw,
            qos_overriding_options=QoSOverridingOptions.with_default_policies()))

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
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
        if self._broadcast is not None:
            self._broadcast.forget()

    def _release(self) -> None:
        """Undo _configure, as far as it came."""
        self._background.join()
        for topic in interfaces.OUTPUTS:
            publisher = self._publish.pop(topic.name, None)
            if publisher is not None and topic.managed:
                self.destroy_lifecycle_publisher(publisher)
            elif publisher is not None:
                self.destroy_publisher(publisher)
        for stack in self._stacks:
            stack.close()
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
        compressed = self._config.is_compressed(camera)

        def on_image(raw: bytes) -> None:
            self._health.image_arrived()
            arrival = Arrival(raw, time.monotonic())
            self._mailbox.put(arrival, camera)
            if compressed and self._ahead is not None and self._pipeline.gate.admits_all:
                self._ahead.offer(camera, arrival)

        return on_image

    def _info_callback(self, camera: str) -> Callable[[bytes], None]:
        def on_info(raw: bytes) -> None:
            if not self._infos.due(camera):
                return
            try:
                self._infos.put(camera, _unpack(raw, CameraInfo))
            except (ConfigError, ImageError) as error:
                self._refuse('camera_info', f'{camera}: {error}' if camera else str(error))

        return on_info

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
        state = self._announcer.state
        missing = [camera for camera in config.cameras
                   if config.wants_intrinsics and self._infos.of(camera) is None]
        level, text = self._health.level(config.image_timeout_s, config.use_odometry, missing)
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
        self._publish[interfaces.DIAGNOSTICS.name].publish(message)
        if place_map is not None:
            self._announcer.draw_map(place_map)

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
            self._config = self._pipeline.config = self._announcer.config = changed
            self._pipeline.gate.change(changed.min_interval_s, changed.min_distance_m,
                                       changed.trigger == 'on_request')
        return SetParametersResult(successful=True)

    # -- services -------------------------------------------------------------------------------

    def _beside(self, answer: Callable[[Any, Any], None]) -> Callable[..., Any]:
        """The same, but images and odometry come in while it works; it never raises."""
        async def on_call(request: Any, response: Any) -> Any:
            def wake() -> None:
                if executor is not None:
                    executor.wake()

            executor = self.executor
            try:
                await self._background.run(
                    Future(executor=executor), wake, lambda: answer(request, response))
            except Exception as error:  # noqa: BLE001 - the node goes on, whatever the disk says
                response.success, response.message = False, _line(error)
            return response

        return on_call

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> None:
        with self._swap:
            if self._config is None:
                raise ConfigError('the node is not configured')
            self._start_anew()
            self._pipeline.gate.reset()
            self._announcer.forget('reset', self._place_map)
        response.success, response.message = True, 'the belief starts anew'

    def _localize_once(self, request: Any, response: Trigger.Response) -> Trigger.Response:
        if self._worker is None:
            response.message = 'the node is not active'
        elif self._localizer is None:
            response.message = 'there is no map: the mode is loop_closure'
        elif self._config.initialpose == 'never':
            response.message = "the parameter 'initialpose' is never"
        else:
            self._announcer.fix_wanted = True
            self._pipeline.gate.ask()
            response.success = True
            response.message = 'the next localized image will be published on initialpose'
        return response

    def _load_map(self, request: LoadMap.Request, response: LoadMap.Response) -> None:
        """Read a map beside the one in use, then exchange them between two images."""
        config = self._config
        if config is None:
            raise ConfigError('the node is not configured')
        if config.mode == 'loop_closure':
            raise MapError('there is no map to replace: the mode is loop_closure')
        localizer = self._open(request.path)
        with self._swap:
            if self._localizer is None or self._config is None:  # it is being cleaned up
                localizer.place_map.close()
                raise ConfigError('the node is not configured')
            self._localizer, old = localizer, self._localizer
            self._pipeline.reset()
            self._announcer.forget('map loaded', self._place_map)
            old.place_map.close()
        response.success, response.message = True, f'loaded {request.path}'
        response.map_id, response.keyframes = localizer.place_map.map_id, len(localizer.place_map)

    def _save_map(self, request: SaveMap.Request, response: SaveMap.Response) -> None:
        path = Path(request.path).expanduser()
        if not path.is_absolute():
            raise MapError(f'{request.path!r} is no absolute path')
        localizer = self._localizer
        if self._session is not None:
            with self._swap:
                response.keyframes = self._session.save(path)
        elif localizer is not None:
            response.keyframes = len(localizer.place_map)
            localizer.place_map.copy_to(path)
        else:
            raise ConfigError('the node is not configured')
        response.success, response.message = True, f'saved {path}'

    # -- the worker ----------------------------------------------------------------------------

    def _work(self) -> None:
        while (arrivals := self._mailbox.take()) is not None:
            self._health.busy_since = time.monotonic()
            looked = False
            try:
                with self._swap:
                    self._ahead.began()
                    looked = self._look(arrivals)
            except ImageError as error:
                self._refuse('image', str(error))
            except Exception as error:  # noqa: BLE001 - one bad frame must not strand the robot
                self._refuse('internal', f'{type(error).__name__}: {error}')
            self._health.busy_since = None
            self._ahead.ended(looked)
            self._health.decoded_ahead = self._ahead.decoded
            arrivals = None  # while it waits, the last image does not stay in memory

    def _look(self, arrivals: dict[str, Arrival]) -> bool:
        """Localize what the cameras sent, and publish what came out; whether there was any."""
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
                for step, seconds in result.seconds.items():
                    self._health.spent(step, seconds)
                with self._health.timed('publish'):
                    self._announcer.localization(
                        moment, result, localizer.place_map, self._odom_frame)
                descriptions = {view.camera: one for view, one in
                                zip(moment, result.descriptions, strict=True)}
            if self._session is not None:
                with self._health.timed('session'):
                    self._close_loops(moment, descriptions)
        return bool(views)

    def _close_loops(self, moment: list[View], descriptions: dict[str, Any]) -> None:
        """The first camera's image against the session's own past."""
        view = next((one for one in moment if one.camera == self._config.cameras[0]), None)
        if view is None:
            return
        try:
            found = self._session.look(view, descriptions.get(view.camera), self._odom_frame)
        except MapError as error:
            self._refuse('session', str(error))
            return
        if self._localizer is None:
            self._health.looked_at(time.monotonic() - view.arrived_s)
        self._announcer.closures(found, view, self._session, self._odom_frame)

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

    def _declare(self, parameter: Parameter) -> None:
        """Types are checked by to_config, which takes a whole number for a float."""
        descriptor = ParameterDescriptor(
            description=parameter.description, dynamic_typing=True, additional_constraints=(
                'acts at once' if parameter.name in LIVE else 'fixed while configured'))
        if parameter.limits is not None:
            low, high = parameter.limits
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
            if low == int(low) and high == int(high):
                descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        try:
            self.declare_parameter(parameter.name, parameter.default, descriptor)
        except InvalidParameterValueException:
            # Out of range at the start: configure says so in a line, as of every wrong value.
            self.declare_parameter(parameter.name, parameter.default, ParameterDescriptor(
                description=parameter.description, dynamic_typing=True))

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


def _qos(topic: Topic) -> QoSProfile:
    return QoSProfile(
        depth=topic.depth,
        reliability=ReliabilityPolicy.RELIABLE if topic.reliable
        else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if topic.latched
        else DurabilityPolicy.VOLATILE)


def _unpack(raw: bytes, kind: type) -> Any:
    try:
        return deserialize_message(raw, kind)
    except Exception as error:
        raise ImageError(f'a message of {len(raw)} bytes is no {kind.__name__}: '
                         f'{error}') from error


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (array.array, tuple)) else value


def _line(error: Exception) -> str:
    """One line about what went wrong."""
    text = ' '.join(str(error).split())
    return text if isinstance(error, RegvprError) else f'{type(error).__name__}: {text}'


def main(arguments: list[str] | None = None) -> int:
    """Run the node; exit code 1 where it cannot start."""
    tune_process()
    rclpy.init(args=arguments)
    node = None
    try:
        node = LocalizeNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if node.get_parameter('autostart').value and not _start(node):
            return 0 if _stopped() else 1
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if not _stopped():  # else a signal came in the midst of one of rclpy's own calls
            raise
    finally:
        if node is not None:
            node.on_shutdown(None)
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _start(node: LocalizeNode) -> bool:
    return (node.trigger_configure() == SUCCESS) and (node.trigger_activate() == SUCCESS)


def _stopped() -> bool:
    """Whether a signal has ended ROS in this process."""
    return not rclpy.ok()


if __name__ == '__main__':
    sys.exit(main())
