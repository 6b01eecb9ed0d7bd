"""Models that are not our own from file to node: fetched or added, mapped, driven by a node."""

from collections.abc import Callable
from pathlib import Path
import time
from typing import Any

import pytest
from regvpr_ros.msg import PlaceMatches
from safetensors.torch import save_file
from sensor_msgs.msg import Image
import torch
from torch import nn, Tensor

from regvpr_core.cli import main
from regvpr_core.models.peers import PEERS
from test.ros.test_localize_node import image

PLACES = 4


@pytest.fixture
def published(tmp_path: Path, monkeypatch) -> Callable[[str], Path]:
    """Random weights in the layout of a published file; an empty cache."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv('REGVPR_WEIGHTS', raising=False)

    def write(name: str) -> Path:
        torch.manual_seed(0)
        peer = PEERS[name]
        tensors = {peer.their_key(key): value.contiguous().half()
                   for key, value in peer.make().state_dict().items()
                   if key not in peer.left_out and value.is_floating_point()}
        tensors |= {peer.their_key(key): value for key, value in
                    peer.empty().state_dict().items() if not value.is_floating_point()
                    for value in [torch.tensor(1)]}
        save_file(tensors, tmp_path / f'{name}.safetensors')
        return tmp_path / f'{name}.safetensors'
    return write


@pytest.mark.parametrize('name', [
    'mixvpr', pytest.param('megaloc', marks=pytest.mark.soak)])
def test_a_published_model_goes_from_a_file_to_a_map_to_the_node(
    name, published, make_bag, frames, tmp_path, node, heard, listener, wait_until: Any,
):
    laps = frames(PLACES)
    assert main(['models', 'fetch', name, '--from', str(published(name))]) == 0
    assert main(['map', 'build', str(make_bag(tmp_path / 'bag', laps)), '--out',
                 str(tmp_path / 'map'), '--model', name, '--device', 'cpu']) == 0
    output = drive(tmp_path / 'map', laps[2].rgb, node, heard, listener, wait_until)
    assert f'model {name}: published weights' in output


def test_an_added_onnx_model_goes_from_a_file_to_a_map_to_the_node(
    tmp_path, monkeypatch, make_bag, frames, node, heard, listener, wait_until: Any,
):
    pytest.importorskip('onnxruntime')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    file = tmp_path / 'mine.onnx'
    torch.onnx.export(Colours().eval(), (torch.randn(1, 3, 56, 84),), str(file), dynamo=False,
                      opset_version=17)
    laps = frames(PLACES)
    assert main(['models', 'add', str(file), '--size', '84x56', '--mean', '0.5', '0.5', '0.5',
                 '--std', '0.2', '0.2', '0.2']) == 0
    file.unlink()
    assert main(['map', 'build', str(make_bag(tmp_path / 'bag', laps)), '--out',
                 str(tmp_path / 'map'), '--model', 'mine']) == 0
    output = drive(tmp_path / 'map', laps[2].rgb, node, heard, listener, wait_until)
    assert 'model mine' in output


class Colours(nn.Module):
    """Colours of a coarse grid."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to unit rows (B, 48)."""
        return nn.functional.normalize(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1), dim=1)


def drive(place_map: Path, rgb: Any, node: Any, heard: Any, listener: Any, wait_until: Any
          ) -> str:
    """Show a node the third image of its map until it finds it; what the node wrote.

    The node is told no model: it takes the map's.
    """
    process = node(place_map, '-p', 'device:=cpu')
    publisher = listener.node.create_publisher(Image, '/camera/image_raw', 10)
    assert wait_until(lambda: publisher.get_subscription_count() == 1), process.output

    def again() -> bool:
        publisher.publish(image(rgb, 100))
        time.sleep(0.1)
        return bool(heard.matches)
    assert wait_until(again), process.output
    message: PlaceMatches = heard.matches[0]
    assert message.matches[0].reference_id == 2
    assert message.matches[0].similarity > 0.99
    return str(process.output)


def test_a_node_whose_model_is_not_here_names_the_line_that_fetches_it(
    published, make_bag, frames, tmp_path, node, wait_until,
):
    assert main(['models', 'fetch', 'mixvpr', '--from', str(published('mixvpr'))]) == 0
    assert main(['map', 'build', str(make_bag(tmp_path / 'bag', frames(PLACES))), '--out',
                 str(tmp_path / 'map'), '--model', 'mixvpr', '--device', 'cpu']) == 0
    for file in (tmp_path / 'cache/regvpr').glob('resnet50_MixVPR*'):
        file.unlink()
    process = node(tmp_path / 'map')
    assert wait_until(lambda: 'cannot configure' in process.output), process.output
    assert 'the map was built with mixvpr, which cannot be loaded' in process.output
    assert 'run `regvpr models fetch mixvpr`, or without internet' in process.output
    assert 'fetch:=true' in process.output
