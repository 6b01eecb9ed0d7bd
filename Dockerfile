# regvpr_ros on ROS 2 Jazzy: tools, node, and the default model's backbone.
#
#   docker build -t regvpr .                                  torch for NVIDIA cards (PyPI's build)
#   docker build -t regvpr --build-arg DEVICE=cpu --build-arg TORCH_INDEX=URL .
#       torch for the CPU alone, a fifth of the size, from the package index URL that carries it
#   docker run --rm -it --net=host -v $PWD:/data regvpr regvpr quickstart /data/DRIVE.mcap --out /data/site
#   docker run --rm -it --net=host --gpus all -v $PWD:/data regvpr \
#       ros2 launch regvpr_ros localize.launch.py map:=/data/site/map image_topic:=/camera/image_raw
#
# Written to be read: it has not been built where the package was developed.
FROM ros:jazzy-ros-base

ARG DEVICE=cuda
ARG TORCH_INDEX=
ENV DEBIAN_FRONTEND=noninteractive PIP_BREAK_SYSTEM_PACKAGES=1

WORKDIR /ws/src/regvpr_ros
COPY package.xml .
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip \
    && rosdep update --rosdistro jazzy \
    && rosdep install --from-paths . --ignore-src -y \
    && rm -rf /var/lib/apt/lists/*

RUN if [ "$DEVICE" = cpu ]; then \
        pip install --no-cache-dir --index-url "${TORCH_INDEX:?give --build-arg TORCH_INDEX=URL}" torch; \
    else pip install --no-cache-dir torch; fi

COPY . .
# cv_bridge of Jazzy is built for NumPy 1.
RUN pip install --no-cache-dir '.[weights,verification,gps]' 'numpy<2' \
    && regvpr models fetch
WORKDIR /ws
RUN . /opt/ros/jazzy/setup.sh && colcon build --packages-select regvpr_ros

RUN sed -i '$i source /ws/install/setup.bash' /ros_entrypoint.sh
WORKDIR /data
CMD ["regvpr", "doctor"]
