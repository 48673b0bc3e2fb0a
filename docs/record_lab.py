"""The recorded runs of the break-it lab: ``python docs/record_lab.py`` writes ``varlen_lab/course/lab/recorded.json``.

To be run where a switch, the specimen or what the audit says of it has changed; tests/test_course_lab.py says so.
"""

from __future__ import annotations

import json

from varlen_lab.course.lab.record import PLACE, made
from varlen_lab.files.writing import written_whole


def main() -> None:
    """Measure the right run and the twelve, and write them, a line a run."""
    record = made()
    switches = record.pop("switches")
    lines = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in record.items()]
    runs = ",\n".join(f"{json.dumps(name)}: {json.dumps(run, ensure_ascii=False)}" for name, run in switches.items())
    lines.append(f'"switches": {{\n{runs}\n}}')
    with written_whole(PLACE, "w") as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
