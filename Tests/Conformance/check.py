"""Reads Autobahn's report and fails unless every case is as good as the strictest possible server's.

usage: check.py REPORT_FOLDER AGENT CASES_MIN
"""

import json
import pathlib
import sys

# What Autobahn itself reports as INFORMATIONAL, whatever a server does.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}


def main() -> int:
    folder, agent, cases_min = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    index = folder / "index.json"
    if not index.exists():
        print(f"there is no report at {index}: the fuzzing client has not finished")
        return 1
    cases = json.loads(index.read_text()).get(agent, {})
    if len(cases) < cases_min:
        print(f"only {len(cases)} cases of {cases_min} ran")
        return 1
    failed = 0
    for name, case in sorted(cases.items()):
        allowed = {"OK", "INFORMATIONAL"} if name in INFORMATIONAL else {"OK"}
        if case["behavior"] in allowed and case["behaviorClose"] in allowed:
            continue
        failed += 1
        report = json.loads((folder / case["reportfile"]).read_text())
        print(f"{name}: {case['behavior']}, close {case['behaviorClose']}: {report.get('result', '')}")
        print(f"  {report.get('description', '')[:300]}\n  {folder / case['reportfile']}")
    print(f"{len(cases) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
