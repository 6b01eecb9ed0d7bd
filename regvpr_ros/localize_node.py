"""The node: camera images in, place matches, pose priors and loop closures out.

This module implements the lifecycle. `NodeState` contains the state, `Inputs` the subscriptions;
`Worker` processes images, `Announcer` publishes results, `Services` handles service calls.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
import gc
import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from regvpr_core.errors import ConfigError, RegvprError
from regvpr_core.live.process import tune_process
from regvpr_core.live.trail import Trail
from regvpr_core.localization.states import Reason
from regvpr_ros import interfaces, node_parameters
from regvpr_ros.announcer import Announcer
from regvpr_ros.camera_infos import CameraInfos
from regvpr_ros.command_line import refusal, usage
from regvpr_ros.decoders import at_half_size, choose_decoder
from regvpr_ros.extrinsics import TransformListener
from regvpr_ros.health import diagnostic
from regvpr_ros.image_parser import ImageParser
from regvpr_ros.inputs import Inputs, qos
from regvpr_ros.loading import open_encoder, open_localizer
from regvpr_ros.node_state import NodeState
from regvpr_ros.pipeline import Pipeline
from regvpr_ros.services import Services
from regvpr_ros.session_recorder import session_folder, SessionRecorder
from regvpr_ros.stacks import make_stacks
from regvpr_ros.stopping import ended_by_signals, noted_interrupts
from regvpr_ros.tf_broadcast import TransformBroadcast
from regvpr_ros.worker import Worker

DIAGNOSTICS_PERIOD_S = 1.0
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class LocalizeNode(LifecycleNode):
    """Lifecycle node. Callbacks only store messages; one thread runs the network and publishes.

    while_loading: makes a context that surrounds configure and activate, so that a signal can
        interrupt them.
    """

    while_loading: Callable[[], AbstractContextManager[None]] = nullcontext

    def __init__(self, **options: Any) -> None:
        super().__init__('regvpr', **options)
        node_parameters.declare(self)
        # Callbacks that undo the finished steps of configure and activate.
        self._configured, self._active = ExitStack(), ExitStack()
        self._worker: Worker | None = None
        self._publish: dict[str, Any] = {}
        self._broadcast: TransformBroadcast | None = None
        self._answers = Services(self, lambda: self._worker, lambda path, state: open_localizer(
            path, state.encoder, state.config, self.get_logger()))
        self.add_on_set_parameters_callback(self._on_set_parameters)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and the map; an error is logged and the transition fails."""
        return self._guarded('configure', self._configure, self._configured)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, and start processing."""
        if self._guarded('activate', self._activate, self._active) != SUCCESS:
            return FAILURE
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop processing; model and map stay loaded."""
        self._active.close()
        if self._worker is not None:
            self._worker.announcer.forget(Reason('inactive', 'inactive'))
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the model and the map."""
        self._configured.close()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState | None) -> TransitionCallbackReturn:
        """Stop and release everything, from any state."""
        self._active.close()
        self._configured.close()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything after an error; the node can then be configured again."""
        return self.on_shutdown(state)

    def _guarded(self, name: str, transition: Callable[[ExitStack], None],
                 undo: ExitStack) -> TransitionCallbackReturn:
        """Run a transition. An error is logged in one line, and finished steps are undone."""
        try:
            with self.while_loading():
                transition(undo)
        except RegvprError as error:
            self.get_logger().error(f'cannot {name}: {error}')
        except Exception as error:  # noqa: BLE001 - rclpy would swallow it without a word
            self.get_logger().error(f'cannot {name}: {type(error).__name__}: {error}')
        else:
            return SUCCESS
        undo.close()
        return FAILURE

    def _configure(self, undo: ExitStack) -> None:
        log = self.get_logger()
        # 1. Parameters, and the outputs, which fail at once if a package is missing.
        node_parameters.refuse_unknown(self)
        config = node_parameters.read(self)
        if config.mode != 'localize':
            session_folder(config.session_path)
        trail = Trail()
        self._broadcast = TransformBroadcast(self) if config.broadcast_tf else None
        stacks = make_stacks(config.outputs, self, trail)
        for stack in stacks:
            undo.callback(stack.close)
        # 2. Model, map and session.
        begun_s = time.monotonic()
        encoder, infos = open_encoder(config, log), CameraInfos()
        model_s = time.monotonic()
        localizer = None if config.mode == 'loop_closure' else \
            open_localizer(config.map, encoder, config, log)
        map_s = time.monotonic()
        with ExitStack() as unowned:
            if localizer is not None:
                unowned.callback(localizer.place_map.close)
            session = None if config.mode == 'localize' else SessionRecorder(
                encoder, config.session, config.session_path, infos.for_session)
            state = NodeState(config=config, encoder=encoder, log=log, localizer=localizer,
                              session=session, infos=infos, trail=trail,
                              now_ns=lambda: int(self.get_clock().now().nanoseconds))
            unowned.pop_all()
        undo.callback(state.close)
        # 3. The pipeline from messages to posed images.
        transforms = TransformListener(self)
        undo.callback(transforms.close)
        decode, decoder = choose_decoder()
        log.info(f'pixels by {decoder}')
        if not config.wants_intrinsics:  # local features are those of the full image
            decode = at_half_size(decode, encoder.preprocessing.height,
                                  encoder.preprocessing.width)
        pipeline = Pipeline(state, decode, ImageParser(config.is_compressed), transforms)
        # 4. The node's own outputs.
        for topic in interfaces.OUTPUTS:
            self._publish[topic.name] = self._publisher(topic, undo)
        announcer = Announcer(state, self._publish, lambda: self.get_clock().now().to_msg(),
                              stacks, self._broadcast)
        announcer.forget(Reason('configured', 'configured'))
        self._worker = Worker(state, pipeline, announcer)
        log.info(f'configured: model {model_s - begun_s:.2f} s, map {map_s - model_s:.2f} s, '
                 f'rest {time.monotonic() - map_s:.2f} s')
        undo.callback(self._forget_worker)
        undo.callback(self._answers.join)
        # Model and map are kept, so the garbage collector need not check them at each image.
        gc.collect()
        gc.freeze()
        undo.callback(gc.unfreeze)

    def _activate(self, undo: ExitStack) -> None:
        worker = self._worker
        if worker is None:
            raise ConfigError('the node is not configured')
        undo.callback(self._answers.session_ended)
        undo.callback(worker.stop)
        ahead = worker.start()
        inputs = Inputs(self, worker.state, ahead)
        undo.callback(inputs.close)
        timer = self.create_timer(DIAGNOSTICS_PERIOD_S, lambda: self._on_diagnostics(inputs))
        undo.callback(self.destroy_timer, timer)
        if self._broadcast is not None:
            undo.callback(self._broadcast.forget)
            repeat = self.create_timer(TransformBroadcast.PERIOD_S, self._broadcast.repeat)
            undo.callback(self.destroy_timer, repeat)

    def _publisher(self, topic: interfaces.Topic, undo: ExitStack) -> Any:
        if topic.managed:
            publisher = self.create_lifecycle_publisher(topic.kind, topic.name, qos(topic))
            undo.callback(self.destroy_lifecycle_publisher, publisher)
        else:
            publisher = self.create_publisher(topic.kind, topic.name, qos(topic))
            undo.callback(self.destroy_publisher, publisher)
        return publisher

    def _forget_worker(self) -> None:
        self._worker = None

    def _on_diagnostics(self, inputs: Inputs) -> None:
        inputs.report()
        worker = self._worker
        if worker is None:
            return
        state, said = worker.state, worker.announcer.state
        level, text, values = state.diagnosis(said)
        message = DiagnosticArray(status=[diagnostic(
            f'{self.get_fully_qualified_name()}: localization', level, text or said, values)])
        message.header.stamp = self.get_clock().now().to_msg()
        self._publish[interfaces.DIAGNOSTICS.name].publish(message)
        if state.place_map is not None:
            worker.announcer.draw_map(state.place_map)

    def _on_set_parameters(self, parameters: list[Any]) -> SetParametersResult:
        """Apply live parameters; others take effect at the next configure."""
        mine = {p.name: p.value for p in parameters if p.name in node_parameters.NAMES}
        worker = self._worker
        refusal = '' if worker is None else node_parameters.fixed(set(mine))
        if refusal:
            return SetParametersResult(successful=False, reason=refusal)
        try:
            changed = node_parameters.read(self, mine)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if worker is not None:
            worker.state.change(changed)
        return SetParametersResult(successful=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the node; exit code 1 if it cannot start, 2 for wrong arguments."""
    given = sys.argv if arguments is None else arguments
    if '--help' in given or '-h' in given:
        print(usage())  # noqa: T201
        return 0
    wrong = refusal(given)
    if wrong:
        print(wrong, file=sys.stderr)  # noqa: T201
        return 2
    tune_process()
    interrupts = noted_interrupts()
    rclpy.init(args=given)
    node = None
    try:
        node = LocalizeNode()
        node.while_loading = ended_by_signals
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if node.get_parameter('autostart').value and not _start(node):
            return 0 if _stopped() else 1
        while not interrupts:
            executor.spin_once()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if not _stopped():  # otherwise a signal interrupted a call of rclpy
            raise
    finally:
        if node is not None:
            node.on_shutdown(None)
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _start(node: LocalizeNode) -> bool:
    return bool(node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS)


def _stopped() -> bool:
    """Whether a signal has ended ROS in this process."""
    return not rclpy.ok()


if __name__ == '__main__':
    sys.exit(main())
