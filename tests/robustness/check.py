"""Check a saved history: python -m tests.robustness.check FILE"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from tests.robustness.checker import check
from tests.robustness.findings import Findings, Property
from tests.robustness.history import Fault, History, Operation, Received, load, merge

VIOLATIONS_SHOWN_MAX = 20


def table(history: History, findings: Findings) -> str:
    """What was recorded, done, and checked, in lines for people."""
    counts: Counter[str] = Counter(record.kind for record in history)
    outcomes = Counter(record.outcome for record in history if isinstance(record, Operation))
    messages = Counter(_what(record) for record in history if isinstance(record, Received))
    faults = Counter(
        record.fault for record in history if isinstance(record, Fault) and record.phase == "begin"
    )
    lines = [
        f"operations    {counts['operation']:>7}   {_list(outcomes)}",
        f"commits       {counts['committed']:>7}",
        f"streams       {counts['subscribed']:>7}",
        f"messages      {counts['received']:>7}   {_list(messages)}",
        f"reports       {counts['reported']:>7}",
        f"faults        {sum(faults.values()):>7}   {_list(faults)}",
    ]
    violated = Counter(violation.property for violation in findings.violations)
    lines.append("")
    lines += [
        f"{which.name.lower():<13} {findings.checked[which]:>7} checks {violated[which]:>5} broken   {which}"
        for which in Property
    ]
    return "\n".join(lines)


def _what(message: Received) -> str:
    if message.transfer is not None:
        start = message.transfer.start
        return start.intent if start is not None else "part"
    if message.beat is not None:
        return "bookmark" if message.beat else "heartbeat"
    return "drain" if message.drain else "other"


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def show(history: History, findings: Findings) -> None:
    """Print the table and the first violations."""
    print(table(history, findings))  # noqa: T201
    for violation in findings.violations[:VIOLATIONS_SHOWN_MAX]:
        print(f"\n{violation}")  # noqa: T201
    if len(findings.violations) > VIOLATIONS_SHOWN_MAX:
        print(f"\n… and {len(findings.violations) - VIOLATIONS_SHOWN_MAX} more")  # noqa: T201


def main(arguments: list[str]) -> int:
    """Check the files together; 1 if something does not hold."""
    if not arguments:
        print(__doc__, file=sys.stderr)  # noqa: T201
        return 2
    history = merge(load(Path(argument)) for argument in arguments)
    findings = check(history)
    show(history, findings)
    return 1 if findings.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
