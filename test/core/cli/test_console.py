"""What commands print of names that are not ours."""

import io

from rich.console import Console
from rich.table import Table

from regvpr_core.cli.console import cell, plain, print_facts, say


def table_of(text: str) -> Table:
    table = Table()
    table.add_row(cell(text))
    return table


def test_what_a_terminal_would_obey_is_replaced_and_brackets_are_no_markup():
    for print_it in (lambda console, text: say(console, text),
                     lambda console, text: console.print(table_of(text))):
        out = io.TextIOWrapper(io.BytesIO(), encoding='utf-8')
        print_it(Console(file=out, force_terminal=True, width=80), '[red]ä\x1b[2J\x9b\ud800\nb[/]')
        out.flush()
        shown = out.buffer.getvalue().decode()
        assert '[red]ä\ufffd[2J\ufffd\ufffd\ufffdb[/]' in shown
        assert '\x1b[2J' not in shown


def test_a_list_of_facts_is_cut_name_by_name(capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '12000')
    print_facts({'topics_seen': ['x' * 5000, 'b\x1b'], 'count': 3}, as_json=False)
    out = capsys.readouterr().out
    assert f'│ topics seen │ {"x" * 4095}…, b\ufffd ' in out
    assert '│ count       │ 3 ' in out
    assert plain(None) == 'None'
