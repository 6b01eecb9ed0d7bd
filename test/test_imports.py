"""Which package may import which library, also where import-linter does not see it.

import-linter reads `import` statements. Libraries that are slow to load or optional are imported
by `importlib.import_module('name')` inside functions: this test reads both.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROS = ('ament_index_python', 'cv_bridge', 'diagnostic_msgs', 'geometry_msgs', 'lifecycle_msgs',
       'nav_msgs', 'rclpy', 'regvpr_ros', 'sensor_msgs', 'std_msgs', 'std_srvs', 'tf2_ros',
       'visualization_msgs')

ALLOWED = {
    'faiss': ('regvpr_core/search/',),
    'pymilvus': ('regvpr_core/search/milvus.py',),
    'rosbags': ('regvpr_core/recordings/', 'regvpr_ros/'),
    'torch': ('regvpr_core/models/', 'regvpr_core/training/', 'regvpr_core/evaluation/',
              'regvpr_core/search/', 'regvpr_core/verification/xfeat.py',
              'regvpr_core/recordings/describing.py', 'regvpr_core/cli/doctor.py',
              'regvpr_core/cli/export.py',
              'regvpr_core/cli/evaluate_print.py'),
    **dict.fromkeys(ROS, ('regvpr_ros/', 'regvpr_core/cli/doctor.py',
                          'regvpr_core/cli/quickstart.py')),
}
"""Library: the folders and files that may import it. What is not named here is free."""

COMPUTED = {
    'regvpr_core/__init__.py', 'regvpr_core/cli/__init__.py', 'regvpr_core/cli/doctor.py',
    'regvpr_core/evaluation/model_specs.py', 'regvpr_core/images/__init__.py',
    'regvpr_ros/replay.py',
    'regvpr_ros/recorder.py', 'regvpr_ros/stacks/messages.py',
}
"""Files that import by a name which is only known when they run."""


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and top-level name of each import at any depth; '?' for a computed name."""
    tree = ast.parse(source)
    loaders = {'__import__', 'import_module'}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == 'importlib':
            loaders |= {alias.asname for alias in node.names
                        if alias.name == 'import_module' and alias.asname}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.partition('.')[0]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, (node.module or '').partition('.')[0]
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else \
                node.func.id if isinstance(node.func, ast.Name) else ''
            if called in loaders and node.args:
                name = node.args[0]
                known = isinstance(name, ast.Constant) and isinstance(name.value, str)
                yield node.lineno, str(name.value).partition('.')[0] if known else '?'


def violations(file: str, source: str) -> list[str]:
    """What a file imports and may not, one line each."""
    found = []
    for line, name in imports(source):
        if name == '?' and file not in COMPUTED:
            found.append(f'{file}:{line} imports by a computed name')
        elif name in ALLOWED and not file.startswith(ALLOWED[name]):
            found.append(f'{file}:{line} imports {name}')
    return found


def test_libraries_are_imported_only_where_the_layers_allow_it():
    files = [file for package in ('regvpr_core', 'regvpr_ros')
             for file in sorted((ROOT / package).rglob('*.py'))]
    assert len(files) > 150
    assert [line for file in files for line in violations(
        file.relative_to(ROOT).as_posix(), file.read_text(encoding='utf-8'))] == []


@pytest.mark.parametrize(('file', 'statement', 'name'), [
    ('regvpr_core/maps/reader.py', "def f():\n    import importlib\n"
     "    return importlib.import_module('faiss.contrib')", 'imports faiss'),
    ('regvpr_core/maps/reader.py', "from importlib import import_module as load\nload('torch')",
     'imports torch'),
    ('regvpr_core/localization/belief.py', 'def f():\n    from rclpy.node import Node',
     'imports rclpy'),
    ('regvpr_core/cli/main.py', "__import__('rosbags.rosbag2')", 'imports rosbags'),
    ('regvpr_core/maps/reader.py', 'import importlib\nimportlib.import_module(chosen)',
     'imports by a computed name'),
    ('regvpr_core/maps/search/x.py', 'import faiss as f', 'imports faiss')])
def test_an_import_is_seen_however_it_is_written(file, statement, name):
    (line,) = violations(file, statement)
    assert line.startswith(f'{file}:')
    assert line.endswith(name)


def test_imports_of_the_own_package_and_of_free_libraries_are_no_violations():
    source = ("from . import torch\nfrom .faiss import x\nimport numpy\n"
              "importlib.import_module('matplotlib')\nplugin.torch('faiss')\n")
    assert violations('regvpr_core/maps/reader.py', source) == []
