"""The command that plants faults: on a few operations, and whether it would tell.

The whole run is `python tests/plant_faults.py`."""

import pytest

from minivit.autograd import REGISTRY
from tests import plant_faults
from tests.autograd import properties


@pytest.mark.filterwarnings("ignore")
def test_faults_in_a_few_operations_are_caught(capsys):
    assert plant_faults.main(["multiply", "divide", "where", "linear", "layer_norm"]) == 0
    assert " 0 SURVIVED" in capsys.readouterr().out


@pytest.mark.parametrize("name", REGISTRY)
def test_every_rule_gets_a_sign_a_factor_and_a_drop(name):
    kinds = {fault.kind for fault in plant_faults.faults(name)}
    assert {"sign", "factor", "dropped result"} <= kinds


def test_a_survivor_is_reported(capsys, monkeypatch):
    monkeypatch.setattr(properties, "checks", lambda op: {})
    assert plant_faults.main(["exp"]) == 1
    assert "SURVIVED" in capsys.readouterr().out


def test_an_operation_that_is_broken_already_is_not_judged(capsys, monkeypatch):
    monkeypatch.setattr(REGISTRY["exp"], "rule", lambda g, out: 2 * g * out)
    assert plant_faults.main(["exp"]) == 2
    assert "with no fault planted" in capsys.readouterr().err


def test_what_is_planted_is_taken_out_again():
    before = {name: op.rule for name, op in REGISTRY.items()}
    for fault in plant_faults.faults("gelu"):
        with plant_faults.planted(fault):
            pass
    assert {name: op.rule for name, op in REGISTRY.items()} == before


def test_an_unknown_operation_is_named(capsys):
    assert plant_faults.main(["sotfmax"]) == 2
    assert "sotfmax" in capsys.readouterr().err
