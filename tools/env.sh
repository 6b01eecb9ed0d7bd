# Source this (bash) for a shell with the project's Python, ROS 2 and, once built, its messages.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export VIRTUAL_ENV="$root/.venv" PATH="$root/.venv/bin:$PATH"
export LD_LIBRARY_PATH="$root/.venv/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export AMENT_PREFIX_PATH="$root/.venv" CMAKE_PREFIX_PATH="$root/.venv"
unset PYTHONPATH
if [ -f "$root/install/local_setup.bash" ]; then
    . "$root/install/local_setup.bash"
    # The node and its tools by name: localize, replay, build_map.
    export PATH="$root/install/regvpr_ros/lib/regvpr_ros:$PATH"
    # The wheels hold the standard packages; tools find them only through this list.
    export AMENT_PREFIX_PATH="$AMENT_PREFIX_PATH:$root/.venv"
fi
export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
unset root
