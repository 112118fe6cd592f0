"""Say which variables nothing takes, one line each, with the name that was likely meant.

Reads from standard input a JSON object: `given` and `known` (names), `roles` (the folder whose roles take more). Runs
on the control machine with Ansible's own Python, which has PyYAML.
"""

import difflib
import json
import pathlib
import sys

import yaml


def misspelt(given, known):
    lines = []
    for name in sorted(set(given) - set(known)):
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        lines.append(f"{name}: did you mean {close[0]}?" if close else f"{name}: see roles/*/README.md for what there is")
    return lines


def taken_by(roles):
    """What the roles take: their options, and what they set for all to read."""
    names = set()
    for path in roles.glob("*/meta/argument_specs.yml"):
        names.update(yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"])
    for path in roles.glob("*/vars/main.yml"):
        names.update(yaml.safe_load(path.read_text()))
    return names


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print("\n".join(misspelt(asked["given"], [*asked["known"], *taken_by(pathlib.Path(asked["roles"]))])))
