import json
from dataclasses import replace

import numpy as np
import pytest

from demo.evaluate import HEALTHY_LIMIT_ML, PASSING_DICE, SCORED, CaseScore, dice, summarise

ILL = CaseScore(
    seed=1, lesions=1, dice=dict.fromkeys(SCORED, 0.95), found_ml=10.0, truth_ml=10.0, seconds=1.0
)
HEALTHY = CaseScore(seed=2, lesions=0, dice={}, found_ml=0.0, truth_ml=0.0, seconds=1.0)


def test_dice_of_halves_and_of_nothing():
    a, b = np.array([True, True, False]), np.array([False, True, True])
    assert dice(a, b) == pytest.approx(0.5)
    assert dice(a & ~a, b & ~b) == 1.0
    assert dice(a, a & ~a) == 0.0


def test_healthy_heads_do_not_flatter_the_mean():
    summary = summarise([ILL, HEALTHY, HEALTHY])
    assert summary["mean_dice"]["WT"] == 0.95
    assert (summary["with_tumour"], summary["healthy"]) == (1, 2)
    assert summary["passed"]
    json.dumps(summary)


def test_one_region_below_the_limit_fails():
    weak = replace(ILL, dice={**ILL.dice, "ET": PASSING_DICE - 0.1})
    assert not summarise([weak])["passed"]


def test_a_lesion_found_in_a_healthy_head_fails():
    ghost = replace(HEALTHY, found_ml=HEALTHY_LIMIT_ML * 2)
    assert not summarise([ILL, ghost])["passed"]


def test_no_case_with_a_tumour_proves_nothing():
    assert not summarise([HEALTHY])["passed"]
