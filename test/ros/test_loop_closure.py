"""The node as a source of loop closures: its own past, over DDS."""

from geometry_msgs.msg import PoseWithCovarianceStamped
from regvpr_ros.msg import PlaceMatch
from regvpr_ros.srv import SaveMap
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from regvpr_core.maps.place_map import PlaceMap


def test_a_second_lap_closes_loops_with_both_stamps_and_the_session_survives_a_kill(
    make_bag, frames, small_model, tmp_path, start, listener, wait_until,
):
    lap = frames(40)
    again = frames(40, start_s=1045)
    for i, frame in enumerate(again):  # odometry went on: the second lap lies beside the first
        frame.T_map_base = lap[i].T_map_base.copy()
        frame.T_map_base[1, 3] += 0.5
    drive = make_bag(tmp_path / 'drive', lap + again)
    process = start(
        'localize', '--ros-args', '-p', 'mode:=loop_closure', '-p', f'model:={small_model}',
        '-p', f'session_path:={tmp_path / "session"}', '-p', 'outputs:=[lio_sam]',
        '-p', 'session.exclude_m:=10.0', '-p', 'session.speed_limit_mps:=1000.0',
        '-r', 'image:=/camera/image_raw', '-r', 'odom:=/odom')
    closures = listener.listen(PlaceMatch, '/regvpr/loop_closures')
    pairs = listener.listen(Float64MultiArray, '/lio_loop/loop_closure_detection')
    fixes = listener.listen(PoseWithCovarianceStamped, '/regvpr/pose_prior')
    replay = start('replay', drive, '--rate', '5', '--wait', '60')
    assert replay.wait(120) == 0, replay.output
    assert wait_until(lambda: closures and pairs), process.output
    for closure in closures:
        assert closure.status == PlaceMatch.ACCEPTED
        assert abs(closure.header.stamp.sec - closure.reference_stamp.sec - 45) <= 3
        assert closure.probability >= 0.9
        assert closure.header.frame_id == 'camera_optical'
    assert [*pairs[0].data] == [closures[0].header.stamp.sec, closures[0].reference_stamp.sec]
    assert not fixes
    assert f'loop closure 1: image of {closures[0].header.stamp.sec}.00 s' in process.output
    assert (f'keyframe {closures[0].reference_id} of {closures[0].reference_stamp.sec}.00 s'
            in process.output)

    saved = listener.call(SaveMap, '/regvpr/save_map',
                          SaveMap.Request(path=str(tmp_path / 'saved')))
    assert saved.success, saved.message
    with PlaceMap.open(tmp_path / 'saved') as place_map:
        assert len(place_map) == saved.keyframes
        assert place_map.manifest.sources == ['session']
    once = listener.call(Trigger, '/regvpr/localize_once', Trigger.Request())
    assert not once.success
    assert 'no map' in once.message

    process.process.kill()
    process.process.wait(20)
    with PlaceMap.open(tmp_path / 'session' / 'part001') as place_map:
        assert len(place_map) >= saved.keyframes
