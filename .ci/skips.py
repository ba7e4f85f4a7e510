"""Print the skipped tests of a JUnit file; fail on any that the allow-list does not explain."""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

results, allowed_file = sys.argv[1:]
lines = Path(allowed_file).read_text().splitlines()
allowed = [line for line in lines if line.strip() and not line.startswith("#")]
unexplained = 0
cases = list(ElementTree.parse(results).iter("testcase"))
for case in cases:
    for skipped in case.iter("skipped"):
        reason = skipped.get("message", "")
        known = any(line in reason for line in allowed)
        unexplained += not known
        name = f"{case.get('classname')}::{case.get('name')}"
        print(f"{'skipped' if known else 'SKIPPED, NOT ALLOWED'}: {name}: {reason}")
print(f"{len(cases)} tests, {unexplained} skipped without an allowed reason")
sys.exit(1 if unexplained or not cases else 0)
