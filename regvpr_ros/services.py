"""Services of the node, available in all states."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from std_srvs.srv import Trigger

from regvpr_core.errors import ConfigError, MapError, RegvprError
from regvpr_core.localization.localizer import Localizer
from regvpr_ros import interfaces
from regvpr_ros.background import Background
from regvpr_ros.map_update import update_by_session
from regvpr_ros.node_state import NodeState
from regvpr_ros.srv import LoadMap, SaveMap
from regvpr_ros.worker import Worker


class Services:
    """Implements the services of `interfaces.SERVICES`."""

    def __init__(self, node: Any, worker: Callable[[], Worker | None],
                 open_map: Callable[[str, NodeState], Localizer]) -> None:
        """Create the services.

        Args:
            node: the node.
            worker: returns the worker of a configured node, else None.
            open_map: from path and state to a localizer; may raise MapError.
        """
        self._node, self._worker, self._open_map = node, worker, open_map
        self._background = Background()
        answers: dict[str, Callable[..., Any]] = {
            interfaces.LOAD_MAP.name: self._load_map,
            interfaces.SAVE_MAP.name: self._save_map,
            interfaces.PLAN_UPDATE.name: self._plan_update,
            interfaces.UPDATE_MAP.name: self._update_map,
            interfaces.RESET.name: self._reset,
            interfaces.LOCALIZE_ONCE.name: self._localize_once}
        for service in interfaces.SERVICES:
            answer = answers[service.name]
            node.create_service(service.kind, service.name,
                                self._beside(answer) if service.slow else answer,
                                callback_group=ReentrantCallbackGroup())

    def join(self) -> None:
        """Wait for running services."""
        self._background.join()

    def session_ended(self) -> None:
        """Plan or make an update by the session that has just ended, by the parameter `update`."""
        worker = self._worker()
        if worker is None or worker.state.config.update == 'off':
            return
        state, log = worker.state, worker.state.log
        if state.config.update == 'propose':
            log.info(f'the session is in {state.config.session_path}: ~/update_map, or regvpr map '
                     f'update, improves the map by it')
            return

        def update() -> None:
            try:
                log.info(f'map updated: {update_by_session(state, dry_run=False).text}')
            except RegvprError as error:
                log.error(f'map not updated: {error}')

        log.info('the map is updated by the session; it is exchanged in one step at the end')
        self._background.start(update)

    def _beside(self, answer: Callable[[Any, Any], None]) -> Callable[..., Any]:
        """A service callback that runs `answer` in a background thread and never raises."""
        async def on_call(request: Any, response: Any) -> Any:
            executor = self._node.executor

            def wake() -> None:
                if executor is not None:
                    executor.wake()

            try:
                await self._background.run(
                    Future(executor=executor), wake, lambda: answer(request, response))
            except Exception as error:  # noqa: BLE001 - the node goes on, whatever the disk says
                response.success, response.message = False, one_line(error)
            return response

        return on_call

    def _configured(self) -> Worker:
        worker = self._worker()
        if worker is None:
            raise ConfigError('the node is not configured')
        return worker

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> None:
        self._configured().reset()
        response.success, response.message = True, 'the belief starts anew'

    def _localize_once(self, request: Any, response: Trigger.Response) -> Trigger.Response:
        worker = self._worker()
        if worker is None or not worker.active:
            response.message = 'the node is not active'
        elif worker.state.localizer is None:
            response.message = 'there is no map: the mode is loop_closure'
        elif worker.state.config.initialpose == 'never':
            response.message = "the parameter 'initialpose' is never"
        else:
            worker.state.fix_wanted = worker.state.asked = True
            worker.state.gate.ask()
            response.success = True
            response.message = 'the next localized image will be published on initialpose'
        return response

    def _load_map(self, request: LoadMap.Request, response: LoadMap.Response) -> None:
        """Read a new map, then replace the current one between two images."""
        worker = self._configured()
        if worker.state.config.mode == 'loop_closure':
            raise MapError('there is no map to replace: the mode is loop_closure')
        localizer = self._open_map(request.path, worker.state)
        if self._worker() is not worker:  # the node was cleaned up meanwhile
            localizer.place_map.close()
            raise ConfigError('the node is not configured')
        worker.exchange(localizer)
        response.success, response.message = True, f'loaded {request.path}'
        response.map_id, response.keyframes = localizer.place_map.map_id, len(localizer.place_map)

    def _save_map(self, request: SaveMap.Request, response: SaveMap.Response) -> None:
        path = Path(request.path).expanduser()
        if not path.is_absolute():
            raise MapError(f'{request.path!r} is no absolute path')
        state = self._configured().state
        place_map = state.place_map
        if state.session is not None:
            with state.turn:
                response.keyframes = state.session.save(path)
        elif place_map is not None:
            response.keyframes = len(place_map)
            place_map.copy_to(path)
        response.success, response.message = True, f'saved {path}'

    def _plan_update(self, request: Trigger.Request, response: Trigger.Response) -> None:
        outcome = update_by_session(self._configured().state, dry_run=True)
        response.success, response.message = outcome.used > 0, outcome.text

    def _update_map(self, request: Trigger.Request, response: Trigger.Response) -> None:
        outcome = update_by_session(self._configured().state, dry_run=False)
        response.success, response.message = outcome.used > 0, outcome.text


def one_line(error: Exception) -> str:
    """Message of an error, in one line."""
    text = ' '.join(str(error).split())
    return text if isinstance(error, RegvprError) else f'{type(error).__name__}: {text}'
