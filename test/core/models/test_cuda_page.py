"""docs/cuda.md names every file that speaks to CUDA, by code that is in it."""

from pathlib import Path
import re

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_of_what_never_ran_on_cuda_is_true_to_the_code():
    file, quoted = '', {}
    for line in (ROOT / 'docs' / 'cuda.md').read_text().splitlines():
        row = re.match(r'\| (?:`(regvpr_[^`]+)`)? ?\| `(.+?)` \|', line)
        if row:
            file = row[1] or file
            quoted.setdefault(file, []).append(row[2])
    assert len(quoted) >= 12
    for name, fragments in quoted.items():
        text = (ROOT / name).read_text()
        assert [code for code in fragments if code not in text] == [], name
        # Whether there is a device is also asked on a machine without one.
        calls = [line.strip() for line in text.splitlines()
                 if re.search(r'(?<!: )torch\.cuda\.(?!is_available|device_count)', line)]
        assert [line for line in calls if not any(code in line for code in fragments)] == [], name
    speaks = {str(path.relative_to(ROOT)) for folder in ('regvpr_core', 'regvpr_ros')
              for path in (ROOT / folder).rglob('*.py')
              if re.search(r"torch\.cuda\.|== 'cuda'", path.read_text())}
    assert speaks - quoted.keys() == set()
