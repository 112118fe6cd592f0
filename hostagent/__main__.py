"""Argv in, exit code out."""

from __future__ import annotations

from hostagent.cli import hostagent


def main() -> None:
    hostagent(prog_name="hostagent")


if __name__ == "__main__":
    main()
