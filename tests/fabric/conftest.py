from tests.fabric.fixtures import fabric_machine, lab, make_lab

__all__ = ["fabric_machine", "lab", "make_lab"]
