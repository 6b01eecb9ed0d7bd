"""The docs say what the code does."""

from pathlib import Path

import pytest

from regvpr_ros.parameters import declared, NodeConfig
from tools.make_docs import page

DOCS = Path(__file__).resolve().parents[2] / 'docs'


def test_the_table_of_parameters_is_that_of_the_code():
    text = (DOCS / 'node.md').read_text()
    assert page(text) == text, 'run: python -m tools.make_docs'
    assert text.count('| `localizer.') >= 20


@pytest.mark.parametrize('parameter', list(declared(NodeConfig)), ids=lambda p: p.name)
def test_every_parameter_is_described(parameter):
    assert len(parameter.description) > 10
