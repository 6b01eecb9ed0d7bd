"""The docs say what the code does."""

from pathlib import Path
import re
from xml.etree import ElementTree

import pytest
from rclpy.node import NodeNameNonExistentError

from regvpr_core.cli import main
from regvpr_ros import interfaces
from regvpr_ros.parameters import declared, NodeConfig
from tools.make_docs import kind, page
from tools.make_policy import PATH as POLICY, policy

DOCS = Path(__file__).resolve().parents[2] / 'docs'


def test_the_tables_of_topics_services_and_parameters_are_those_of_the_code():
    text = (DOCS / 'node.md').read_text()
    assert page(text) == text, 'run: python -m tools.make_docs'
    assert text.count('| `localizer.') >= 20
    assert text.count('| in | ') == len(interfaces.INPUTS)
    assert text.count('| out | ') == len(interfaces.OUTPUTS) + 1  # /tf


def test_the_security_policy_is_that_of_the_code():
    assert POLICY.read_text() == policy(), 'run: python -m tools.make_policy'


def allowed(rule: str, element: str) -> set[str]:
    """Names that the policy allows, resolved as sros2 does."""
    profile = ElementTree.parse(POLICY).getroot().find('enclaves/enclave/profiles/profile')
    assert (profile.get('ns'), profile.get('node')) == ('/', 'regvpr')
    names = [one.text for group in profile if group.get(rule) == 'ALLOW'
             for one in group.iter(element)]
    return {name.replace('~', '/regvpr') if name[0] in '~/' else f'/{name}' for name in names}


@pytest.mark.parametrize('page_name', ['node', 'slam/README', 'troubleshooting'])
def test_links_and_pictures_of_a_page_are_there(page_name):
    text = (DOCS / f'{page_name}.md').read_text()
    links = [link.partition('#')[0] for link in re.findall(r'\]\(([^)\s]+)\)', text)
             if not link.startswith('http')]
    assert links
    for link in links:
        assert (DOCS / page_name).parent.joinpath(link).exists(), link


def test_what_the_pages_name_by_path_is_there():
    for page_name in ('dds', 'security'):
        for name in re.findall(r'`?((?:config|tools|test)/[\w/.]+\w)`?',
                               (DOCS / f'{page_name}.md').read_text()):
            assert (DOCS.parent / name).exists(), name


@pytest.mark.parametrize('parameter', list(declared(NodeConfig)), ids=lambda p: p.name)
def test_every_parameter_is_described(parameter):
    assert len(parameter.description) > 10


def test_a_node_on_the_air_has_the_topics_and_services_of_the_tables(
    make_bag, frames, small_model, tmp_path, start, listener, wait_until,
):
    assert main(['map', 'build', str(make_bag(tmp_path / 'bag', frames(6))), '--out',
                 str(tmp_path / 'map'), '--model', str(small_model)]) == 0
    process = start('localize', '--ros-args', '-p', f'map:={tmp_path / "map"}',
                    '-p', f'model:={small_model}')
    own = ('regvpr', '/')

    def graph(ask) -> dict[str, list[str]]:
        try:
            return dict(ask(*own))
        except NodeNameNonExistentError:
            return {}

    def names(table) -> set[tuple[str, str]]:
        return {(entry.name.replace('~', '/regvpr') if entry.name[0] in '~/' else f'/{entry.name}',
                 kind(entry.kind).replace('/', '/msg/' if hasattr(entry, 'depth') else '/srv/'))
                for entry in table}

    def has(ask, table) -> bool:
        there = {(name, types[0]) for name, types in graph(ask).items()}
        return there >= names(table)

    node = listener.node
    assert wait_until(lambda: has(node.get_publisher_names_and_types_by_node,
                                  interfaces.OUTPUTS)), process.output
    heard = [one for one in interfaces.INPUTS
             if one not in (interfaces.COMPRESSED, interfaces.CAMERA_INFO)]
    assert wait_until(lambda: has(node.get_subscriber_names_and_types_by_node, heard))
    assert wait_until(lambda: has(node.get_service_names_and_types_by_node, interfaces.SERVICES))
    # And nothing else, but what every lifecycle node has.
    published = set(graph(node.get_publisher_names_and_types_by_node))
    assert published - {name for name, _ in names(interfaces.OUTPUTS)} == {
        '/parameter_events', '/rosout', '/regvpr/transition_event'}
    subscribed = set(graph(node.get_subscriber_names_and_types_by_node))
    assert subscribed - {name for name, _ in names(heard)} <= {'/tf', '/tf_static',
                                                                '/parameter_events'}
    served = {name for name, types in graph(node.get_service_names_and_types_by_node).items()
              if types[0].startswith(('regvpr_ros/', 'std_srvs/'))}
    assert served == {name for name, _ in names(interfaces.SERVICES)}
    # And the security policy allows all of it.
    assert published <= allowed('publish', 'topic')
    assert subscribed <= allowed('subscribe', 'topic')
    assert set(graph(node.get_service_names_and_types_by_node)) <= allowed('reply', 'service')
